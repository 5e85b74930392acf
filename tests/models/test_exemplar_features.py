"""Features of exemplars: one pass for each distinct image, the same bits whatever else is encoded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from milan.describers._shared.contract import make_toy_dissection
from milan.dissection.dissection import Dissection
from milan.dissection.milannotations import ReleasedDissection, export_milannotations
from milan.dissection.top_k_view import TopKView
from milan.models import Encoder, load_encoder
from milan.models.exemplar_features import encode_exemplars
from tests.models.test_data_module import ENCODER


@pytest.fixture(scope="module")
def dissection(tmp_path_factory: pytest.TempPathFactory) -> Dissection:
    return make_toy_dissection(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(ENCODER)


def encoded_images(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images with masks, for each call of ``encode_regions``."""
    counts = []
    real = encoder.encode_regions

    def count(images):
        listed = list(images)
        counts.append(len(listed))
        return real(listed)

    monkeypatch.setattr(encoder, "encode_regions", count)
    return counts


def test_features_are_those_of_each_exemplar_alone_to_the_last_bit(dissection: Dissection, encoder: Encoder) -> None:
    units = dissection.active_units()
    at_once = encode_exemplars(encoder, [(dissection, units), (TopKView(dissection, 2), units[:3])])
    for unit, features in zip(units, at_once[0], strict=True):
        exemplars = dissection.exemplars(unit)
        alone = [encoder.encode(exemplars.images[[rank]], exemplars.masks[[rank]]) for rank in range(len(features))]
        assert np.array_equal(features, torch.cat(alone).numpy())
        assert np.array_equal(features, encode_exemplars(encoder, [(dissection, [unit])])[0][0])
    assert [features.tolist() for features in at_once[1]] == [features[:2].tolist() for features in at_once[0][:3]]


def test_each_distinct_image_is_encoded_once_for_all_units_and_layers(
    dissection: Dissection, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = dissection.active_units()
    distinct = {int(id) for unit in units for id in dissection.exemplars(unit).ids}
    counts = encoded_images(encoder, monkeypatch)
    encode_exemplars(encoder, [(dissection, units), (TopKView(dissection, 2), units)])
    assert counts == [len(distinct)]
    assert len(distinct) < len(units) * dissection.k


def test_released_images_are_told_apart_by_their_pixels(
    dissection: Dissection, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = ReleasedDissection(export_milannotations(dissection, tmp_path))
    np.savetxt(released.folder / "ids.csv", np.zeros((len(released.units), released.k)), fmt="%d", delimiter=",")
    units = dissection.active_units()
    expected = encode_exemplars(encoder, [(dissection, units)])
    counts = encoded_images(encoder, monkeypatch)
    found = encode_exemplars(encoder, [(ReleasedDissection(released.folder), units)])
    assert all(np.array_equal(one, other) for one, other in zip(found[0], expected[0], strict=True))
    pixels = {image.numpy().tobytes() for unit in units for image in dissection.exemplars(unit).images}
    assert counts == [len(pixels)]


def test_no_units_give_no_features(dissection: Dissection, encoder: Encoder) -> None:
    assert encode_exemplars(encoder, []) == []
    assert encode_exemplars(encoder, [(dissection, [])]) == [[]]
