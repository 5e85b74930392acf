"""Diorama's BLIP: what it is taught is true, how it is trained and saved, and that it loads as the published
ones do.
"""

from dataclasses import replace

import pytest
import torch

from milan.diorama.scene_concepts import list_written_phrases
from milan.diorama.scenes import HELD_OUT_START, draw_scene
from milan.diorama.sentence_truth import check_statements
from milan.diorama_build import captioner_training as captioning
from milan.diorama_build import stand_in_training as fitting
from milan.diorama_build.caption_dataset import load_caption_dataset
from milan.diorama_build.captioner_training import (
    DEFAULT_CONFIG,
    MAX_TOKENS,
    TEXTS_PER_IMAGE,
    CaptionerBatches,
    CaptionerLearner,
    build_captioner,
    build_tokenizer,
    set_vision_encoder,
    train_captioner,
)
from milan.diorama_build.vision_encoder_training import VisionEncoderConfig, VisionEncoderLearner
from milan.pretrained.image_captioner import load_image_captioner

SCENES = 24
EYE = VisionEncoderConfig(width=96, layers=1, heads=3, steps=2, batch_size=16)
SMALL = replace(
    DEFAULT_CONFIG,
    vision_encoder=EYE,
    steps=2,
    batch_size=8,
    text_decoder=DEFAULT_CONFIG.text_decoder | {"num_hidden_layers": 1},
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    home = tmp_path_factory.mktemp("work")
    for start in (0, HELD_OUT_START):
        load_caption_dataset(start, SCENES, home, workers=1)
    return home


@pytest.fixture(scope="module")
def taught(work):
    return load_caption_dataset(0, SCENES, work)


@pytest.fixture(scope="module")
def tokenizer(taught):
    return build_tokenizer(taught)


def test_what_it_is_told_of_whole_scenes_is_true(taught):
    tellings = CaptionerBatches(taught, 8)
    batch = tellings.make_batch(0)
    rows, _ = tellings.image_text_batches.choose_rows(0)
    assert batch.images.shape == (8, 3, 64, 64)
    assert len(batch.texts) == TEXTS_PER_IMAGE * 8
    whole = 0
    for place, row in enumerate(rows.tolist()):
        if torch.equal(batch.images[place], torch.from_numpy(taught.images[row].copy())):
            scene = draw_scene(row % SCENES, world="objects" if row < SCENES else "scenes")
            texts = batch.texts[TEXTS_PER_IMAGE * place : TEXTS_PER_IMAGE * (place + 1)]
            assert len(set(texts)) == TEXTS_PER_IMAGE or len(set(taught.sentences[row])) < len(taught.sentences[row])
            assert all(fact.true for text in texts for fact in check_statements(text, scene))
            whole += 1
    assert 3 <= whole < 8
    assert not any(text.startswith(("a photo of", "an image of", "a close-up of")) for text in batch.texts)
    again = CaptionerBatches(taught, 8).make_batch(0)
    assert again.texts == batch.texts
    assert torch.equal(again.images, batch.images)


def test_every_word_of_the_world_can_be_said(taught, tokenizer):
    words = [*list_written_phrases()] + [text for said in taught.sentences for text in said]
    pieces = tokenizer(words).input_ids
    assert not any(tokenizer.unk_token_id in each for each in pieces)
    assert max(map(len, pieces)) <= MAX_TOKENS
    assert tokenizer.decode(tokenizer("a red house").input_ids, skip_special_tokens=True) == "a red house"
    assert len(tokenizer("quixotic").input_ids) > 4  # spelt


def _model(tokenizer):
    torch.manual_seed(0)
    model, vision_encoder = build_captioner(SMALL, tokenizer), VisionEncoderLearner(EYE).vision_encoder
    with torch.no_grad():
        for value in vision_encoder.parameters():
            value.add_(0.05 * torch.randn_like(value))  # biases too
    set_vision_encoder(model, vision_encoder.state_dict())
    return model, vision_encoder


def test_it_sees_as_the_eye_does_that_was_taught(taught, tokenizer):
    model, vision_encoder = _model(tokenizer)
    pixels = torch.from_numpy(taught.images[:4].copy()).float() / 127.5 - 1
    theirs = vision_encoder(pixel_values=pixels).last_hidden_state
    tower = model.vision_model
    alone = tower.post_layernorm(tower.encoder(inputs_embeds=tower.embeddings(pixels)[:, 1:]).last_hidden_state)
    torch.testing.assert_close(alone, theirs, rtol=1e-4, atol=1e-5)
    beside = tower(pixel_values=pixels).last_hidden_state[:, 1:]  # with the token that stands for the whole picture
    assert (beside - theirs).abs().mean() < 0.2 * theirs.abs().mean()


def test_training_on_one_batch_learns_it_and_leaves_the_eye(taught, tokenizer):
    model, _ = _model(tokenizer)
    learner = CaptionerLearner(model, tokenizer)
    before = model.vision_model.encoder.layers[0].mlp.fc1.weight.clone()
    batch = CaptionerBatches(taught, 8).make_batch(0)
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
    known = train_captioner(tmp_path / "blip", work, config=SMALL, scenes=SCENES)
    assert (known["steps"], known["views"], known["trained_on_scenes"]) == (2, 2 * 16 + 2 * 8, 2 * SCENES)
    loaded = load_image_captioner(f"hf:{tmp_path / 'blip'}")
    assert type(loaded.model).__name__ == "BlipForConditionalGeneration"
    assert sum(value.numel() for value in loaded.model.parameters()) == known["parameters"]
    images = torch.from_numpy(load_caption_dataset(0, SCENES, work).images[:3].copy())
    pixels = loaded.processor(images=list(images), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, (images.float() / 255 - 0.5) / 0.5)
    assert len(loaded.caption_images(images)) == 3
    train_captioner(tmp_path / "again", work, config=SMALL, scenes=SCENES)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "blip" / file).read_bytes()
    assert not list((work / "training").glob("*"))


def test_a_killed_run_goes_on_and_ends_the_same(work, tmp_path, monkeypatch):
    train_captioner(tmp_path / "whole", work, config=SMALL, scenes=SCENES)
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", -1.0)
    batch = CaptionerBatches.make_batch

    def stops(self, step):
        if step == 1:
            raise KeyboardInterrupt
        return batch(self, step)

    monkeypatch.setattr(CaptionerBatches, "make_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        train_captioner(tmp_path / "stopped", work, config=SMALL, scenes=SCENES)
    asked = []
    monkeypatch.setattr(
        captioning.CaptionerBatches, "make_batch", lambda self, step: asked.append(step) or batch(self, step)
    )
    train_captioner(tmp_path / "stopped", work, config=SMALL, scenes=SCENES)
    assert asked == [1]
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
