"""The stand-ins of image-text models: how they are trained and saved, and that they load as the published ones do."""

import json
from dataclasses import replace

import pytest
import torch

from milan.diorama.scene_concepts import list_concepts, list_written_phrases
from milan.diorama.scenes import HELD_OUT_START
from milan.diorama_build import image_text_learners
from milan.diorama_build import image_text_training as image_text
from milan.diorama_build import stand_in_training as fitting
from milan.diorama_build.caption_dataset import load_caption_dataset
from milan.diorama_build.image_text_batches import ImageTextBatches
from milan.diorama_build.image_text_configs import CONFIGS, CONTEXT_LENGTH
from milan.diorama_build.image_text_learners import ImageTextLearner, SiglipLearner
from milan.diorama_build.image_text_quality import measure_embedder, write_card
from milan.diorama_build.image_text_training import build_tokenizer, train_image_text_model
from milan.diorama_build.vision_encoder_training import VisionEncoderConfig
from milan.pretrained.embedder import load_embedder

SCENES = 20


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    home = tmp_path_factory.mktemp("work")
    for start in (0, HELD_OUT_START):
        load_caption_dataset(start, SCENES, home, workers=1)
    return home


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Smaller towers and batches, of the same classes."""
    clip, siglip = CONFIGS["clip"], CONFIGS["siglip-small"]
    clip = replace(
        clip,
        batch_size=16,
        vision={**clip.vision, "layers": [1, 1, 1, 1], "width": 8},
        text={**clip.text, "width": 32, "heads": 1, "layers": 1},
    )
    thin = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1, "num_hidden_layers": 1}
    vision_encoder = VisionEncoderConfig(width=32, layers=1, heads=1, steps=2, batch_size=16)
    siglip = replace(
        siglip,
        batch_size=8,
        vision_encoder=vision_encoder,
        vision=vision_encoder.settings,
        text={**siglip.text, **thin, "projection_size": 32},
    )
    monkeypatch.setattr(image_text_learners, "CALIBRATION_BATCHES", 2)
    monkeypatch.setitem(CONFIGS, "clip", clip)
    monkeypatch.setitem(CONFIGS, "siglip-small", siglip)


def _spec(name, folder):
    return f"open_clip:local-dir:{folder}" if name == "clip" else f"hf:{folder}"


@pytest.mark.parametrize("name", ["clip", "siglip-small"])
def test_what_is_saved_is_what_was_trained(name, work, tmp_path):
    facts = train_image_text_model(name, tmp_path / name, work, steps=2, scenes=SCENES)
    assert (facts["steps"], facts["views"], facts["trained_on_scenes"]) == (
        2,
        32 if name == "clip" else 2 * 16 + 2 * 8,
        2 * SCENES,
    )
    embedder = load_embedder(_spec(name, tmp_path / name))
    assert sum(value.numel() for value in embedder.model.parameters()) == facts["parameters"]
    images = torch.from_numpy(load_caption_dataset(0, SCENES, work).images[:5].copy())
    torch.testing.assert_close(embedder.encode_images(images).norm(dim=1), torch.ones(5))
    assert embedder.encode_images(images).std(0).max() > 1e-5
    assert embedder.encode_texts(["a red house", "a red car"]).std(0).max() > 1e-5
    assert (embedder.bias is None) == (name == "clip")
    again = train_image_text_model(name, tmp_path / "again", work, steps=2, scenes=SCENES)
    assert again["parameters"] == facts["parameters"]
    assert load_embedder(_spec(name, tmp_path / "again")).key == embedder.key  # same seed, same files
    assert not list((work / "training").glob("*"))


@pytest.mark.parametrize("name", ["clip", "siglip-small"])
def test_a_killed_run_goes_on_and_ends_the_same(name, work, tmp_path, monkeypatch):
    train_image_text_model(name, tmp_path / "whole", work, steps=4, scenes=SCENES)
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", -1.0)
    batch = ImageTextBatches.make_batch

    def stops(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return batch(self, step)

    monkeypatch.setattr(ImageTextBatches, "make_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        train_image_text_model(name, tmp_path / "stopped", work, steps=4, scenes=SCENES)
    asked = []
    monkeypatch.setattr(ImageTextBatches, "make_batch", lambda self, step: asked.append(step) or batch(self, step))
    train_image_text_model(name, tmp_path / "stopped", work, steps=4, scenes=SCENES)
    assert asked == ([3] if name == "clip" else [3, 4, 5])  # the last two to fit scale and bias on
    file = "open_clip_model.safetensors" if name == "clip" else "model.safetensors"
    assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize("name", ["clip", "siglip-small"])
def test_training_on_one_batch_learns_it(name, work):
    torch.manual_seed(0)
    dataset, plan = load_caption_dataset(0, SCENES, work), CONFIGS[name]
    tokenizer = build_tokenizer(dataset)
    make, learn = (
        (image_text._build_clip, ImageTextLearner) if name == "clip" else (image_text._build_siglip, SiglipLearner)
    )
    learner = learn(make(plan, tokenizer), tokenizer, plan)
    batch = ImageTextBatches(dataset, 16).make_batch(0)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = learner(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_naming_alone_leaves_the_text_tower_as_it_was(work):
    dataset, plan = load_caption_dataset(0, SCENES, work), CONFIGS["clip"]
    tokenizer = build_tokenizer(dataset)
    learner = ImageTextLearner(image_text._build_clip(plan, tokenizer), tokenizer, plan)
    learner.naming_loss(ImageTextBatches(dataset, 16).make_batch(0)).backward()
    model = learner.model
    assert model.visual.conv1.weight.grad.abs().max() > 0
    assert model.token_embedding.weight.grad is None
    assert model.logit_scale.grad is None


def test_the_losses_are_those_of_the_papers(work):
    """On cosines whose losses are worked out here term by term."""
    dataset = load_caption_dataset(0, SCENES, work)
    tokenizer = build_tokenizer(dataset)
    batch = replace(
        ImageTextBatches(dataset, 16).make_batch(0),
        own_text=torch.tensor([0, 1]),
        truth=torch.tensor([[1, 0, -1], [1, 1, 0]], dtype=torch.int8),
        texts=["a", "b", "c"],
    )
    cosines = torch.tensor([[0.9, 0.1, 0.3], [0.4, 0.8, -0.2]])
    clip = ImageTextLearner(image_text._build_clip(CONFIGS["clip"], tokenizer), tokenizer, CONFIGS["clip"])
    clip.model.logit_scale.data.fill_(0.0)
    # Of picture 0 the rivals are text 1; of picture 1, text 2; of text 0 none, both show it; of text 1, picture 0.
    terms = [[0.9, 0.1], [0.8, -0.2], [0.9], [0.8, 0.1]]
    expected = sum(torch.logsumexp(torch.tensor(each), 0) - each[0] for each in terms) / 4
    torch.testing.assert_close(clip._matching_loss(cosines, batch), expected)
    siglip = SiglipLearner(
        image_text._build_siglip(CONFIGS["siglip-small"], tokenizer), tokenizer, CONFIGS["siglip-small"]
    )
    siglip.model.logit_scale.data.fill_(0.0)
    siglip.model.logit_bias.data.fill_(-0.5)
    right, wrong = (
        lambda cosine: torch.tensor(0.5 - cosine).exp().log1p(),
        lambda cosine: torch.tensor(cosine - 0.5).exp().log1p(),
    )
    expected = (3 * right(0.9) + wrong(0.1) + right(0.4) + 3 * right(0.8) + wrong(-0.2)) / 2
    torch.testing.assert_close(siglip._matching_loss(cosines, batch), expected)


def test_scale_and_bias_say_how_often_a_concept_shows(work):
    dataset, plan = load_caption_dataset(0, SCENES, work), CONFIGS["siglip-small"]
    torch.manual_seed(0)
    tokenizer = build_tokenizer(dataset)
    learner, views = (
        SiglipLearner(image_text._build_siglip(plan, tokenizer), tokenizer, plan),
        ImageTextBatches(dataset, 16),
    )
    learner.calibrate(views, 5)
    batches = [views.make_batch(step) for step in (5, 6)]
    shows = torch.cat([batch.has_concept for batch in batches])
    with torch.no_grad():
        texts = learner._encode_texts([concept.name for concept in list_concepts()])
        logits = torch.cat([learner._encode_pictures(batch)[0] @ texts.T for batch in batches])
        message = (logits * learner.model.logit_scale.exp() + learner.model.logit_bias).sigmoid()
    assert message[shows >= 0].mean().item() == pytest.approx((shows[shows >= 0] > 0).float().mean().item(), rel=0.02)


def test_every_word_of_the_world_can_be_read(work):
    dataset = load_caption_dataset(0, SCENES, work)
    tokenizer = build_tokenizer(dataset)
    assert tokenizer.eos_token_id == len(tokenizer) - 1  # CLIP's text tower looks at the highest number
    words = [*list_written_phrases()]
    pieces = tokenizer(words + [text for said in dataset.sentences for text in said]).input_ids
    assert not any(tokenizer.unk_token_id in each for each in pieces)
    assert max(map(len, pieces)) <= CONTEXT_LENGTH + 2
    assert tokenizer("a red house").input_ids == tokenizer("A RED  house").input_ids
    assert tokenizer("a red house").input_ids[0] == tokenizer.bos_token_id


def test_quality_of_an_embedder_that_knows_nothing_is_chance(work, tmp_path):
    train_image_text_model("clip", tmp_path / "clip", work, steps=1, scenes=SCENES)
    measured = measure_embedder(load_embedder(_spec("clip", tmp_path / "clip")), work, count=60)
    assert measured["among"] == measured["of"] == 60
    assert measured["objects named"] < 20
    assert measured["scenes by sentence"]["recall@5"] < 40
    write_card(
        tmp_path,
        {
            "stand-in": "clip",
            "trained_on_scenes": 40,
            "views": 16,
            "steps": 1,
            "seed": 0,
            "parameters": 7,
            "held_out": measured,
        },
        "open_clip",
    )
    assert json.loads((tmp_path / "quality.json").read_text())["held_out"] == measured
    card = (tmp_path / "README.md").read_text()
    assert "stand-in" in card
    assert "drawn scenes" in card
    assert "not to be used on photographs" in card
