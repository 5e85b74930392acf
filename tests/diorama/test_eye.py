"""The eye that Diorama's captioner and SigLIPs begin with: what it is taught is true, it learns, and the same seed gives the same eye."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from milan.diorama import eye, fitting
from milan.diorama.census import KINDS
from milan.diorama.eye import EyePlan, Onlooker, matrices, measured, sights, trained_eye
from milan.diorama.lessons import lessons
from milan.diorama.names import COLOURS
from milan.diorama.scenes import HELD_OUT
from milan.diorama.seeing import sines, some_places, taken
from milan.diorama.views import GRID

SCENES = 24
PLAN = EyePlan(width=96, layers=1, heads=3, steps=3, batch=16)
OBJECT = KINDS.index("object")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    home = tmp_path_factory.mktemp("work")
    for start in (0, HELD_OUT):
        lessons(start, SCENES, home, workers=1)
    return home


@pytest.fixture(scope="module")
def taught(work):
    return lessons(0, SCENES, work)


def _rows(taught, batch):
    """Which scene each whole picture is, -1 for the others."""
    known = torch.from_numpy(taught.images.astype(np.float32)).flatten(1)
    apart = torch.cdist(batch.images.flatten(1), known)
    return apart.argmin(1).masked_fill(apart.amin(1) > 1, -1)


def test_what_it_is_told_of_whole_pictures_is_what_they_show(taught):
    batch = sights(taught, 128, 0, 0)
    rows = _rows(taught, batch)
    assert 0.35 < (rows >= 0).float().mean() < 0.85
    for place in (rows >= 0).nonzero()[:40, 0].tolist():
        row = int(rows[place])
        labels = taught.census.table[taught.census.pixels[row]][2::4, 2::4].reshape(-1, len(KINDS))
        assert torch.equal(batch.places[place], torch.from_numpy(labels[:, :4]).long())
        assert batch.settings[place] == taught.settings[row]
        assert batch.things[place] in (-1, taught.things[row])
        if batch.things[place] >= 0:
            its = taught.census.table[taught.census.pixels[row]].reshape(-1, len(KINDS))
            colours = its[its[:, OBJECT] == taught.things[row] + 1, KINDS.index("colour")]
            assert batch.colours[place] + 1 == np.bincount(colours[colours > 0], minlength=len(COLOURS) + 1).argmax()
    again = sights(taught, 128, 0, 0)
    assert torch.equal(again.images, batch.images)
    assert torch.equal(again.places, batch.places)
    assert not torch.equal(sights(taught, 128, 0, 1).things, batch.things)


def test_of_covered_pictures_nothing_but_the_main_thing_is_told(taught):
    batch = sights(taught, 128, 0, 3)
    covered = (batch.settings < 0) & (batch.things >= 0)
    assert covered.sum() > 5
    for place in covered.nonzero()[:, 0].tolist():
        named = batch.places[place, :, OBJECT]
        assert (named == 0).any()
        flat = batch.images[place].flatten(1)
        cover = flat[:, (named == 0).nonzero()[0, 0] // GRID * 8 * 64 + (named == 0).nonzero()[0, 0] % GRID * 8 + 4 * 64 + 4]
        assert cover.tolist() in ([0.0] * 3, [127.0] * 3, [255.0] * 3)


def test_what_is_cut_out_shows_what_is_told_of_it(taught, monkeypatch):
    """With pictures painted by their labels, each place of a part cut out has the colour of its label."""
    monkeypatch.setattr(eye, "WHOLE", 0.0)
    monkeypatch.setattr(eye, "COVERED", 0.0)
    shown = taught.census.table[taught.census.pixels][..., OBJECT].repeat(2, 1).repeat(2, 2)
    painted = replace(taught, images=np.stack([shown] * 3, axis=1))
    batch = sights(painted, 64, 0, 0)
    middles = batch.images[:, 0, 4::8, 4::8].flatten(1)
    assert (middles.round() == batch.places[..., OBJECT]).float().mean() > 0.85  # all but at edges, where pictures are blended
    assert (batch.things == -1).all()


def test_it_learns_a_batch(taught):
    torch.manual_seed(0)
    onlooker, batch, losses = Onlooker(PLAN), sights(taught, 16, 0, 0), []
    inside = matrices(onlooker.eye)
    assert len(inside) == 6
    assert all(value.ndim == 2 for value in inside)
    optimizer = torch.optim.AdamW(onlooker.parameters(), lr=3e-3)
    for _ in range(15):
        loss = onlooker.loss(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_places_look_near_before_anything_is_learnt():
    waves = sines(96)
    nearest = (waves @ waves.T - 1e3 * torch.eye(GRID * GRID)).argmax(1)
    rows, columns = torch.arange(GRID * GRID) // GRID, torch.arange(GRID * GRID) % GRID
    assert ((rows[nearest] - rows).abs() + (columns[nearest] - columns).abs()).max() == 1
    torch.manual_seed(0)
    tower = Onlooker(PLAN).eye
    tokens = tower.encoder.layers[0].layer_norm1(tower.embeddings(torch.zeros(1, 3, 64, 64)))
    _, weights = tower.encoder.layers[0].self_attn(tokens)
    near = ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
    assert (weights[0].mean(0) * near).sum(1).mean() > 2 * near.float().mean()


def test_half_of_the_places():
    places = some_places(50, 7)
    assert places.shape == (50, GRID * GRID // 2)
    assert all(len(set(each)) == GRID * GRID // 2 for each in places.tolist())
    assert torch.bincount(places.flatten(), minlength=GRID * GRID).min() > 5
    assert torch.equal(places, some_places(50, 7))
    assert not torch.equal(places, some_places(50, 8))
    values = torch.arange(50 * 64).view(50, 64, 1)
    assert torch.equal(taken(values, places)[3, :, 0] - 3 * 64, places[3])


def test_the_same_seed_gives_the_same_eye_also_after_a_kill(work, monkeypatch):
    whole = trained_eye(PLAN, work, seed=0, scenes=SCENES)
    assert all(value.dtype == torch.float16 for value in whole.values())
    (file,) = (work / "eyes").glob("*.safetensors")
    kept = file.read_bytes()
    monkeypatch.setattr(eye, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert trained_eye(PLAN, work, seed=0, scenes=SCENES).keys() == whole.keys()
    monkeypatch.undo()
    file.unlink()
    monkeypatch.setattr(fitting, "KEEPING", -1.0)
    looked, asked = eye.sights, []

    def stops(taught, size, seed, step):
        asked.append(step)
        if asked == [0, 1, 2]:
            raise KeyboardInterrupt
        return looked(taught, size, seed, step)

    monkeypatch.setattr(eye, "sights", stops)
    with pytest.raises(KeyboardInterrupt):
        trained_eye(PLAN, work, seed=0, scenes=SCENES)
    trained_eye(PLAN, work, seed=0, scenes=SCENES)
    assert asked == [0, 1, 2, 2]
    assert file.read_bytes() == kept
    assert any(not torch.equal(whole[key], value) for key, value in trained_eye(PLAN, work, seed=1, scenes=SCENES).items())


def test_an_eye_that_knows_nothing_names_by_chance(work):
    torch.manual_seed(0)
    found = measured(Onlooker(PLAN), work, SCENES)
    assert set(found) == {"objects", "scenes", "object at each place"}
    assert found["objects"] < 30
