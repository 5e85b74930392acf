"""MILAN's candidates reranked by an image-text model, counted by hand."""

import pytest
import torch

from milan.describers._shared.clip_reranking import ClipReranker
from milan.errors import BadInput, MilanWarning
from milan.pretrained.embedder_interface import Embedder
from milan.units import Candidate, Exemplars, Unit
from tests.describers.makers import COLOURS, load_simulated

VECTORS = {"sky": [1.0, 0.0], "bird": [0.0, 1.0], "both": [0.6, 0.8]}
WHOLE, MASKED = [[1.0, 0.0], [0.8, 0.6]], [[0.0, 1.0], [0.6, 0.8]]


class FixedEmbedder(Embedder):
    key, features, masks_attention = "fixed", 2, True

    def encode_images(self, images):
        return torch.tensor(WHOLE)

    def encode_masked_images(self, images, masks):
        return torch.tensor(MASKED)

    def encode_texts(self, texts):
        return torch.tensor([VECTORS[text] for text in texts])


CANDIDATES = tuple(Candidate(text, 0.0, (("likelihood", -1.0),)) for text in VECTORS)
EXEMPLARS = Exemplars(
    Unit("a", 0),
    torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
    torch.ones(2, 1, 4, 4, dtype=torch.bool),
    torch.zeros(2),
    torch.arange(2),
)


@pytest.mark.parametrize(
    ("weight", "scores"),
    [
        (1.0, {"sky": 1.8, "both": 1.56, "bird": 0.6}),  # 1 + .8, .6 + .48 + .48, 0 + .6
        (0.0, {"bird": 1.8, "both": 1.8, "sky": 0.6}),  # 1 + .8, .8 + .36 + .64, 0 + .6
        (0.5, {"both": 1.68, "sky": 1.2, "bird": 1.2}),
    ],
)
def test_scores_are_weighted_sums_of_cosines_over_the_exemplars(weight, scores, tmp_path, monkeypatch):
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path))
    ranked = ClipReranker(FixedEmbedder(), weight).rank(EXEMPLARS, CANDIDATES)
    assert [each.text for each in ranked] == list(scores)
    assert [each.score for each in ranked] == pytest.approx(list(scores.values()))
    assert ranked[0].parts == (("likelihood", -1.0),)


def test_a_model_without_maskable_attention_is_told_unless_masks_have_no_effect(recwarn):
    class Plain(FixedEmbedder):
        masks_attention = False

    ClipReranker(Plain(), 1.0)
    assert not recwarn
    with pytest.warns(MilanWarning, match="no class token"):
        ClipReranker(Plain(), 0.5)


def test_the_strategy_has_a_key_of_its_own_and_its_weight_is_checked():
    plain = load_simulated("milan")
    assert plain.key == load_simulated("milan", clip_weight=0.5, embedder=COLOURS).key
    clip = [load_simulated("milan", strategy="clip", clip_weight=weight, embedder=COLOURS) for weight in (0.5, 1.0)]
    assert len({plain.key, *(each.key for each in clip)}) == 3
    with pytest.raises(BadInput, match="clip_weight is 2"):
        load_simulated("milan", clip_weight=2.0)
