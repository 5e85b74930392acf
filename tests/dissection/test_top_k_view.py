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
