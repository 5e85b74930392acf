"""Fewer exemplars of a dissection are those that a dissection with a smaller k finds."""

from pathlib import Path

import pytest
import torch

from milan.dissection.dissect import dissect
from milan.dissection.top_k_view import TopKView
from milan.errors import BadInput
from milan.probes import load_probe
from tests.experiments.coloured import coloured, pictures


def test_as_if_dissected_with_a_smaller_k(tmp_path: Path) -> None:
    probe = load_probe(str(pictures(tmp_path / "pictures")), size=16, resize=16)
    many, few = (dissect(coloured(), probe, ["units"], tmp_path / str(k), k=k)["units"] for k in (9, 2))
    fewer = TopKView(many, 2)
    assert set(many.status.values()) > {"sparse"}, "six pictures of a colour are fewer than nine"
    assert fewer.status == few.status
    assert fewer.key != many.key
    for unit in few.active_units():
        ours, theirs = fewer.exemplars(unit), few.exemplars(unit)
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert torch.equal(ours.masks, theirs.masks)
        assert torch.equal(fewer.maps(unit), few.maps(unit))
    with pytest.raises(BadInput, match="k is 10"):
        TopKView(many, 10)


@pytest.mark.parametrize("values", [1, 400, 10**6])
def test_maps_of_many_units_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    monkeypatch.setattr("milan.dissection.store.BLOCK_VALUES", values)
    probe = load_probe(str(pictures(tmp_path / "pictures")), size=16, resize=16)
    stored = dissect(coloured(), probe, ["units"], tmp_path / "out", k=9)["units"]
    units = [stored.units[row] for row in (3, 0, 2)]
    for dissection, k in ((stored, 9), (TopKView(stored, 2), 2)):
        blocks = list(dissection.iter_exemplar_maps(units))
        assert [unit for block in blocks for unit in block.units] == units
        for block in blocks:
            for row, unit in enumerate(block.units):
                assert torch.equal(block.maps[row], stored.maps(unit)[:k])
                assert block.ids[row].tolist() == stored.exemplars(unit).ids[:k].tolist()
                assert block.thresholds[row] == stored.thresholds()[stored.row_of(unit)]
        assert dissection.images_key == probe.fingerprint
