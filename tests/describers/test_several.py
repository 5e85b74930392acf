"""Several meanings: exemplars are split where they differ, and each part is described alone."""

import numpy as np
import pytest
import torch

from milan.describers import load_describer
from milan.describers._shared.contract import UNITS, make_toy_dissection
from milan.describers.several import ClusterView, crop_masked, select_range, split_exemplars
from milan.errors import BadInput
from tests.describers.makers import COLOURS


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Settings of CLIP-Dissect that names one of four colours."""
    file = tmp_path_factory.mktemp("concepts") / "colours.txt"
    file.write_text("grey\nred\ngreen\nblue\n")
    return {"embedder": COLOURS, "pooling": "max", "concepts": str(file)}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy_dissection(tmp_path_factory.mktemp("toys"))


def make_view(toys, unit, ids):
    images = torch.stack([toys.open_probe().image(index) for index in ids])
    return ClusterView(toys, unit, torch.tensor(ids), images, torch.ones(len(ids), 16, 16))


def test_each_cluster_is_described_alone_and_equal_texts_are_said_once(toys, options):
    describer = load_describer("several", of="clip_dissect", options=options, embedder=COLOURS)
    unit = toys.units[UNITS.index("bright")]
    # The probe's images are blue, green, grey and red, eight of each.
    blue, red = make_view(toys, unit, list(range(8))), make_view(toys, unit, list(range(24, 32)))
    assert describer._describe_clusters(unit, [blue, red], 0.7).text == "blue or red"
    assert describer._describe_clusters(unit, [red, red], 0.7).text == "red"


def test_a_unit_of_one_meaning_is_described_as_without_the_wrapper(toys, options):
    wrapped = load_describer("several", of="clip_dissect", options=options, embedder=COLOURS, separation=1.0)
    alone = load_describer("clip_dissect", **options)
    units = toys.active_units()
    assert [each.text for each in wrapped.describe(toys, units)] == [each.text for each in alone.describe(toys, units)]


def test_clusters_are_found_where_there_are_some():
    rng = np.random.default_rng(0)
    near, far = rng.normal(0, 0.05, (8, 3)), rng.normal([1, 0, 0], 0.05, (5, 3))
    clusters, separation = split_exemplars(np.concatenate([near, far]), 3, 0.5)
    assert [rows.tolist() for rows in clusters] == [list(range(8)), list(range(8, 13))]
    assert separation > 0.9
    assert split_exemplars(near, 3, 0.9)[0] == []
    # Two exemplars are no meaning.
    assert split_exemplars(np.concatenate([near, far[:2]]), 2, 0.5)[0] == []


def test_a_view_is_active_on_its_cluster_only(toys):
    unit = toys.active_units()[0]
    ids = select_range(toys, unit, 6)[::2]
    view = make_view(toys, unit, ids.tolist())
    whole, part = toys.activations()[:, 0], view.activations()[:, 0]
    assert part[ids].tolist() == whole[ids].tolist()
    others = [index for index in range(len(whole)) if index not in ids.tolist()]
    assert set(part[others].tolist()) == {float(whole.min())}
    assert view.activations()[:, 1].tolist() == toys.activations()[:, 1].tolist()
    assert view.exemplars(unit).ids.tolist() == ids.tolist()


def test_crops_show_what_the_mask_covers():
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[:, 0, 20:40, 20:40] = 200
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 20:40, 20:40] = True
    crop = crop_masked(image, mask)
    assert crop.shape == image.shape
    # The crop is the mask's box and a quarter of it on each side.
    assert (crop[0, 0] > 100).float().mean().item() == pytest.approx((20 / 30) ** 2, abs=0.05)


def test_describers_of_whole_probes_are_refused():
    with pytest.raises(BadInput, match="netdissect"):
        _ = load_describer("several", of="netdissect").key
