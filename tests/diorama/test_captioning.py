"""Diorama's BLIP: what it is taught is true, how it is trained and saved, and that it loads as the published ones do."""

from dataclasses import replace

import pytest
import torch

from milan.diorama import captioning, fitting
from milan.diorama.captioning import LONGEST, PLAN, TEXTS, Learner, Tellings, captioner, put_eye, tokenizer_for, train
from milan.diorama.concepts import lexicon
from milan.diorama.eye import EyePlan, Onlooker
from milan.diorama.facts import facts
from milan.diorama.lessons import lessons
from milan.diorama.scenes import HELD_OUT, draw
from milan.pretrained.captioner import load_captioner

SCENES = 24
EYE = EyePlan(width=96, layers=1, heads=3, steps=2, batch=16)
SMALL = replace(PLAN, eye=EYE, steps=2, batch=8, mouth=PLAN.mouth | {"num_hidden_layers": 1})


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    home = tmp_path_factory.mktemp("work")
    for start in (0, HELD_OUT):
        lessons(start, SCENES, home, workers=1)
    return home


@pytest.fixture(scope="module")
def taught(work):
    return lessons(0, SCENES, work)


@pytest.fixture(scope="module")
def tokenizer(taught):
    return tokenizer_for(taught)


def test_what_it_is_told_of_whole_scenes_is_true(taught):
    tellings = Tellings(taught, 8)
    batch = tellings.batch(0)
    rows, _ = tellings.views.rows(0)
    assert batch.images.shape == (8, 3, 64, 64)
    assert len(batch.texts) == TEXTS * 8
    whole = 0
    for place, row in enumerate(rows.tolist()):
        if torch.equal(batch.images[place], torch.from_numpy(taught.images[row].copy())):
            scene = draw(row % SCENES, world="objects" if row < SCENES else "scenes")
            texts = batch.texts[TEXTS * place : TEXTS * (place + 1)]
            assert len(set(texts)) == TEXTS or len(set(taught.said[row])) < len(taught.said[row])
            assert all(fact.true for text in texts for fact in facts(text, scene))
            whole += 1
    assert 3 <= whole < 8
    assert not any(text.startswith(("a photo of", "an image of", "a close-up of")) for text in batch.texts)
    again = Tellings(taught, 8).batch(0)
    assert again.texts == batch.texts
    assert torch.equal(again.images, batch.images)


def test_every_word_of_the_world_can_be_said(taught, tokenizer):
    words = [" ".join(each) for each in lexicon()] + [text for said in taught.said for text in said]
    pieces = tokenizer(words).input_ids
    assert not any(tokenizer.unk_token_id in each for each in pieces)
    assert max(map(len, pieces)) <= LONGEST
    assert tokenizer.decode(tokenizer("a red house").input_ids, skip_special_tokens=True) == "a red house"
    assert len(tokenizer("quixotic").input_ids) > 4  # spelt


def _model(tokenizer):
    torch.manual_seed(0)
    model, eye = captioner(SMALL, tokenizer), Onlooker(EYE).eye
    with torch.no_grad():
        for value in eye.parameters():
            value.add_(0.05 * torch.randn_like(value))  # biases too
    put_eye(model, eye.state_dict())
    return model, eye


def test_it_sees_as_the_eye_does_that_was_taught(taught, tokenizer):
    model, eye = _model(tokenizer)
    pixels = torch.from_numpy(taught.images[:4].copy()).float() / 127.5 - 1
    theirs = eye(pixel_values=pixels).last_hidden_state
    tower = model.vision_model
    alone = tower.post_layernorm(tower.encoder(inputs_embeds=tower.embeddings(pixels)[:, 1:]).last_hidden_state)
    torch.testing.assert_close(alone, theirs, rtol=1e-4, atol=1e-5)
    beside = tower(pixel_values=pixels).last_hidden_state[:, 1:]  # with the token that stands for the whole picture
    assert (beside - theirs).abs().mean() < 0.2 * theirs.abs().mean()


def test_training_on_one_batch_learns_it_and_leaves_the_eye(taught, tokenizer):
    model, _ = _model(tokenizer)
    learner = Learner(model, tokenizer)
    before = model.vision_model.encoder.layers[0].mlp.fc1.weight.clone()
    batch = Tellings(taught, 8).batch(0)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = learner(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert torch.equal(model.vision_model.encoder.layers[0].mlp.fc1.weight, before)


def test_what_is_saved_is_what_was_trained(work, tmp_path):
    known = train(tmp_path / "blip", work, plan=SMALL, scenes=SCENES)
    assert (known["steps"], known["views"], known["trained_on_scenes"]) == (2, 2 * 16 + 2 * 8, 2 * SCENES)
    loaded = load_captioner(f"hf:{tmp_path / 'blip'}")
    assert type(loaded.model).__name__ == "BlipForConditionalGeneration"
    assert sum(value.numel() for value in loaded.model.parameters()) == known["parameters"]
    images = torch.from_numpy(lessons(0, SCENES, work).images[:3].copy())
    pixels = loaded.processor(images=list(images), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, (images.float() / 255 - 0.5) / 0.5)
    assert len(loaded.captions(images)) == 3
    train(tmp_path / "again", work, plan=SMALL, scenes=SCENES)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "blip" / file).read_bytes()
    assert not list((work / "training").glob("*"))


def test_a_killed_run_goes_on_and_ends_the_same(work, tmp_path, monkeypatch):
    train(tmp_path / "whole", work, plan=SMALL, scenes=SCENES)
    monkeypatch.setattr(fitting, "KEEPING", -1.0)
    batch = Tellings.batch

    def stops(self, step):
        if step == 1:
            raise KeyboardInterrupt
        return batch(self, step)

    monkeypatch.setattr(Tellings, "batch", stops)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", work, plan=SMALL, scenes=SCENES)
    asked = []
    monkeypatch.setattr(captioning.Tellings, "batch", lambda self, step: asked.append(step) or batch(self, step))
    train(tmp_path / "stopped", work, plan=SMALL, scenes=SCENES)
    assert asked == [1]
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
