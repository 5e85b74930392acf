"""The eye that Diorama's captioner and SigLIPs begin with: what it is taught is true, it learns, and the same seed
gives the same eye.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from milan.diorama.label_signatures import KINDS
from milan.diorama.scene_vocabulary import COLOURS
from milan.diorama.scenes import HELD_OUT_START
from milan.diorama_build import stand_in_training as fitting
from milan.diorama_build import vision_encoder_training as eye
from milan.diorama_build.caption_dataset import load_caption_dataset
from milan.diorama_build.image_text_batches import PLACE_GRID
from milan.diorama_build.vision_encoder_training import (
    VisionEncoderConfig,
    VisionEncoderLearner,
    evaluate_vision_encoder,
    list_matrices,
    make_encoder_batch,
    train_vision_encoder,
)
from milan.diorama_build.vit_init import gather_places, make_position_sines, sample_places

SCENES = 24
PLAN = VisionEncoderConfig(width=96, layers=1, heads=3, steps=3, batch_size=16)
OBJECT = KINDS.index("object")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    home = tmp_path_factory.mktemp("work")
    for start in (0, HELD_OUT_START):
        load_caption_dataset(start, SCENES, home, workers=1)
    return home


@pytest.fixture(scope="module")
def taught(work):
    return load_caption_dataset(0, SCENES, work)


def _rows(taught, batch):
    """Which scene each whole picture is, -1 for the others."""
    known = torch.from_numpy(taught.images.astype(np.float32)).flatten(1)
    apart = torch.cdist(batch.images.flatten(1), known)
    return apart.argmin(1).masked_fill(apart.amin(1) > 1, -1)


def test_what_it_is_told_of_whole_pictures_is_what_they_show(taught):
    batch = make_encoder_batch(taught, 128, 0, 0)
    rows = _rows(taught, batch)
    assert 0.35 < (rows >= 0).float().mean() < 0.85
    for place in (rows >= 0).nonzero()[:40, 0].tolist():
        row = int(rows[place])
        labels = taught.signatures.table[taught.signatures.pixels[row]][2::4, 2::4].reshape(-1, len(KINDS))
        assert torch.equal(batch.place_labels[place], torch.from_numpy(labels[:, :4]).long())
        assert batch.settings[place] == taught.settings[row]
        assert batch.things[place] in (-1, taught.things[row])
        if batch.things[place] >= 0:
            its = taught.signatures.table[taught.signatures.pixels[row]].reshape(-1, len(KINDS))
            colours = its[its[:, OBJECT] == taught.things[row] + 1, KINDS.index("colour")]
            assert batch.colours[place] + 1 == np.bincount(colours[colours > 0], minlength=len(COLOURS) + 1).argmax()
    again = make_encoder_batch(taught, 128, 0, 0)
    assert torch.equal(again.images, batch.images)
    assert torch.equal(again.place_labels, batch.place_labels)
    assert not torch.equal(make_encoder_batch(taught, 128, 0, 1).things, batch.things)


def test_of_covered_pictures_nothing_but_the_main_thing_is_told(taught):
    batch = make_encoder_batch(taught, 128, 0, 3)
    covered = (batch.settings < 0) & (batch.things >= 0)
    assert covered.sum() > 5
    for place in covered.nonzero()[:, 0].tolist():
        named = batch.place_labels[place, :, OBJECT]
        assert (named == 0).any()
        flat = batch.images[place].flatten(1)
        cover = flat[
            :,
            (named == 0).nonzero()[0, 0] // PLACE_GRID * 8 * 64
            + (named == 0).nonzero()[0, 0] % PLACE_GRID * 8
            + 4 * 64
            + 4,
        ]
        assert cover.tolist() in ([0.0] * 3, [127.0] * 3, [255.0] * 3)


def test_what_is_cut_out_shows_what_is_told_of_it(taught, monkeypatch):
    """With pictures painted by their labels, each place of a part cut out has the colour of its label."""
    monkeypatch.setattr(eye, "WHOLE_SHARE", 0.0)
    monkeypatch.setattr(eye, "COVERED_SHARE", 0.0)
    shown = taught.signatures.table[taught.signatures.pixels][..., OBJECT].repeat(2, 1).repeat(2, 2)
    painted = replace(taught, images=np.stack([shown] * 3, axis=1))
    batch = make_encoder_batch(painted, 64, 0, 0)
    middles = batch.images[:, 0, 4::8, 4::8].flatten(1)
    assert (
        middles.round() == batch.place_labels[..., OBJECT]
    ).float().mean() > 0.85  # all but at edges, where pictures are blended
    assert (batch.things == -1).all()


def test_it_learns_a_batch(taught):
    torch.manual_seed(0)
    learner, batch, losses = VisionEncoderLearner(PLAN), make_encoder_batch(taught, 16, 0, 0), []
    inside = list_matrices(learner.vision_encoder)
    assert len(inside) == 6
    assert all(value.ndim == 2 for value in inside)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    for _ in range(15):
        loss = learner.loss(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_places_look_near_before_anything_is_learnt():
    waves = make_position_sines(96)
    nearest = (waves @ waves.T - 1e3 * torch.eye(PLACE_GRID * PLACE_GRID)).argmax(1)
    rows, columns = (
        torch.arange(PLACE_GRID * PLACE_GRID) // PLACE_GRID,
        torch.arange(PLACE_GRID * PLACE_GRID) % PLACE_GRID,
    )
    assert ((rows[nearest] - rows).abs() + (columns[nearest] - columns).abs()).max() == 1
    torch.manual_seed(0)
    tower = VisionEncoderLearner(PLAN).vision_encoder
    tokens = tower.encoder.layers[0].layer_norm1(tower.embeddings(torch.zeros(1, 3, 64, 64)))
    _, weights = tower.encoder.layers[0].self_attn(tokens)
    near = ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
    assert (weights[0].mean(0) * near).sum(1).mean() > 2 * near.float().mean()


def test_half_of_the_places():
    places = sample_places(50, 7)
    assert places.shape == (50, PLACE_GRID * PLACE_GRID // 2)
    assert all(len(set(each)) == PLACE_GRID * PLACE_GRID // 2 for each in places.tolist())
    assert torch.bincount(places.flatten(), minlength=PLACE_GRID * PLACE_GRID).min() > 5
    assert torch.equal(places, sample_places(50, 7))
    assert not torch.equal(places, sample_places(50, 8))
    values = torch.arange(50 * 64).view(50, 64, 1)
    assert torch.equal(gather_places(values, places)[3, :, 0] - 3 * 64, places[3])


def test_the_same_seed_gives_the_same_eye_also_after_a_kill(work, monkeypatch):
    whole = train_vision_encoder(PLAN, work, seed=0, scenes=SCENES)
    assert all(value.dtype == torch.float16 for value in whole.values())
    (file,) = (work / "eyes").glob("*.safetensors")
    kept = file.read_bytes()
    monkeypatch.setattr(eye, "fit_stand_in", lambda *_, **__: pytest.fail("trained again"))
    assert train_vision_encoder(PLAN, work, seed=0, scenes=SCENES).keys() == whole.keys()
    monkeypatch.undo()
    file.unlink()
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", -1.0)
    looked, asked = eye.make_encoder_batch, []

    def stops(taught, size, seed, step):
        asked.append(step)
        if asked == [0, 1, 2]:
            raise KeyboardInterrupt
        return looked(taught, size, seed, step)

    monkeypatch.setattr(eye, "make_encoder_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        train_vision_encoder(PLAN, work, seed=0, scenes=SCENES)
    train_vision_encoder(PLAN, work, seed=0, scenes=SCENES)
    assert asked == [0, 1, 2, 2]
    assert file.read_bytes() == kept
    assert any(
        not torch.equal(whole[key], value)
        for key, value in train_vision_encoder(PLAN, work, seed=1, scenes=SCENES).items()
    )


def test_an_eye_that_knows_nothing_names_by_chance(work):
    torch.manual_seed(0)
    found = evaluate_vision_encoder(VisionEncoderLearner(PLAN), work, SCENES)
    assert set(found) == {"objects", "scenes", "object at each place"}
    assert found["objects"] < 30
