"""Best concept selection (Describe-and-Dissect, section 3.3): the candidate whose pictures activate the unit most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.stats import rankdata
from torch import Tensor

from milan.concepts.concept_sets import drop_near_duplicates
from milan.errors import BadInput, require_at_least
from milan.pretrained.embedder import embed_texts
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.model_sources import Precision
from milan.pretrained.painter import Painter, load_painter, paint_texts
from milan.storage.files import content_key
from milan.targets.generator_target import GeneratorTarget
from milan.targets.hooks import recorded
from milan.targets.target import Target
from milan.units import Candidate, Unit

CandidateScoring = Literal["mean", "topk_squared", "image_products", "topk_squared_image_products"]
BETA, TOP_PICTURES = 5, 10  # of TopK Squared, and t of Image Products (section 3.4)
PICTURES_PER_CANDIDATE = 10  # Q, pictures of each candidate
MAX_LABEL_SIMILARITY = 0.81  # cosine of two labels, above which the second says nothing new (appendix A.7)
SHOWN_DIGITS = 4


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate with the activations of its pictures and its scores.

    Attributes:
        ranks: ranks of its pictures' activations among those of all candidates, 1 for the largest; equal activations
            share their mean rank.
    """

    text: str
    activations: Float[np.ndarray, " count"]
    ranks: Float[np.ndarray, " count"]
    scores: dict[str, float]


@dataclass(frozen=True)
class SelectionRequest:
    """The candidates of one unit, in the order they were found, and the images that activate it most."""

    unit: Unit
    texts: tuple[str, ...]
    images: UInt8[Tensor, "k 3 height width"]


@runtime_checkable
class SelectionSettings(Protocol):
    """The settings of a describer that selects candidates; see ``BestConcept`` for what they mean."""

    painter: str
    painting: str
    scoring: CandidateScoring
    pictures: int
    pooling: Literal["mean", "max"]
    seed: int
    precision: Precision
    device: str


class CandidateSelection:
    """Selects the best candidate by painting all of them.

    Args:
        painter: draws them; embedder: compares pictures, and texts; prompt: what a candidate is put into for the
        painter, in the place of {}; scoring: by which the best is chosen; count: pictures of each; beta, top: β and t;
        pooling: of activation maps; seed: of the pictures.
    """

    def __init__(
        self,
        painter: Painter,
        embedder: Embedder,
        *,
        prompt: str = "{}",
        scoring: CandidateScoring = "topk_squared_image_products",
        count: int = PICTURES_PER_CANDIDATE,
        beta: int = BETA,
        top: int = TOP_PICTURES,
        pooling: Literal["mean", "max"] = "mean",
        seed: int = 0,
    ):
        if "{}" not in prompt:
            raise BadInput(f"the painting prompt {prompt!r} has no {{}} for the candidate")
        require_at_least(1, pictures=count, beta=beta, top=top)
        self.painter, self.embedder, self.prompt, self.scoring, self.count = painter, embedder, prompt, scoring, count
        self.beta, self.top, self.pooling, self.seed = beta, top, pooling, seed

    @classmethod
    def from_settings(cls, settings: SelectionSettings, embedder: Embedder) -> "CandidateSelection":
        """Load the painter that a describer's settings name."""
        return cls(
            load_painter(settings.painter, device=settings.device, precision=settings.precision),
            embedder,
            prompt=settings.painting,
            scoring=settings.scoring,
            count=settings.pictures,
            pooling=settings.pooling,
            seed=settings.seed,
        )

    @property
    def key(self) -> str:
        """Content key of all that the choice depends on."""
        settings = {
            name: getattr(self, name) for name in ("prompt", "scoring", "count", "beta", "top", "pooling", "seed")
        }
        return content_key(painter=self.painter.key, embedder=self.embedder.key, **settings)

    def choose(self, target: Target, requests: Sequence[SelectionRequest]) -> list[list[ScoredCandidate]]:
        """Return the candidates of each request, best first, ties in their order.

        The pictures of all requests are painted and evaluated together.
        """
        asked = list(dict.fromkeys(self._fill_prompt(text) for wish in requests for text in wish.texts))
        if not asked:
            return [[] for _ in requests]
        pictures = dict(
            zip(
                asked, paint_texts(self.painter, asked, self.count, seed=self.seed, size=target.image_size), strict=True
            )
        )
        flat = torch.cat(list(pictures.values()))
        values = measure_activations(
            target, list(dict.fromkeys(wish.unit for wish in requests)), flat, self.pooling, self.count
        )
        vectors = dict(
            zip(asked, self.embedder.encode_images(flat).unflatten(0, (len(asked), self.count)), strict=True)
        )
        found = []
        for wish in requests:
            moved = dict(zip(asked, values[wish.unit].reshape(len(asked), self.count), strict=True))
            own = self.embedder.encode_images(wish.images)
            texts = [self._fill_prompt(text) for text in wish.texts]
            found.append(
                self._rank(wish, np.stack([moved[text] for text in texts]), [vectors[text] for text in texts], own)
            )
        return found

    def select_labels(self, choices: Sequence[ScoredCandidate], max_labels: int) -> list[str]:
        """Return at most ``max_labels`` of the best candidates, of which no two are similar (appendix A.7)."""
        texts = [choice.text for choice in choices]
        return (
            drop_near_duplicates(texts, embed_texts(self.embedder, texts), MAX_LABEL_SIMILARITY)[:max_labels]
            if max_labels > 1
            else texts[:1]
        )

    def make_candidates(self, choices: Sequence[ScoredCandidate]) -> tuple[Candidate, ...]:
        """Return the candidates with their scores, for a description."""
        return tuple(
            Candidate(
                choice.text, choice.scores[self.scoring], tuple((name, choice.scores[name]) for name in SCORE_NAMES)
            )
            for choice in choices
        )

    def make_reasoning(self, choices: Sequence[ScoredCandidate]) -> dict[str, Any]:
        """Return the cached pictures and the activations they caused, as plain values."""
        painted = [
            {
                "text": choice.text,
                "asked": self._fill_prompt(choice.text),
                "activations": [round_or_none(value) for value in choice.activations],
                "ranks": [round_or_none(value) for value in choice.ranks],
            }
            for choice in choices
        ]
        return {"painted": painted, "painter": self.painter.key, "seed": self.seed}

    def _fill_prompt(self, text: str) -> str:
        return self.prompt.replace("{}", text)

    def _rank(
        self,
        request: SelectionRequest,
        activations: Float[np.ndarray, "texts count"],
        vectors: Sequence[Tensor],
        exemplar_vectors: Float[Tensor, "k features"],
    ) -> list[ScoredCandidate]:
        ranks = rankdata(-activations, method="average").reshape(activations.shape)
        products = [
            compute_image_products(exemplar_vectors, vector, row, self.top)
            for vector, row in zip(vectors, activations, strict=True)
        ]
        tables = compute_scores(ranks, np.array(products), self.beta)
        found = [
            ScoredCandidate(
                text, activations[place], ranks[place], {name: float(tables[name][place]) for name in SCORE_NAMES}
            )
            for place, text in enumerate(request.texts)
        ]
        return sorted(found, key=lambda choice: -choice.scores[self.scoring])


SCORE_NAMES = ("mean", "topk_squared", "image_products", "topk_squared_image_products")


def compute_scores(
    ranks: Float[np.ndarray, "texts count"], products: Float[np.ndarray, " texts"], beta: int = BETA
) -> dict[str, Float[np.ndarray, " texts"]]:
    """Return the scores of the four functions (appendix A.1.4); larger is better.

    ``mean``: the negative mean rank; ``topk_squared``: the negative mean square of the β best ranks;
    ``compute_image_products``: as given;
    and their product: (N - the rank of TopK Squared among the N candidates) times Image Products, so that the candidate
    whose pictures move the unit least gets 0. Ranks start at 1, as in the paper; in the released code they start at 0,
    those of the pictures too.

    >>> found = compute_scores(np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([0.5, 0.4]), beta=1)
    >>> found["mean"].tolist(), found["topk_squared"].tolist(), found["topk_squared_image_products"].tolist()
    ([-2.5, -2.5], [-1.0, -4.0], [0.5, 0.0])
    """
    best = np.sort(ranks, axis=1)[:, :beta]
    squared = -(best**2).mean(1)
    place = rankdata(-squared, method="average")
    return {
        "mean": -ranks.mean(1),
        "topk_squared": squared,
        "image_products": products,
        "topk_squared_image_products": (len(ranks) - place) * products,
    }


def compute_image_products(
    exemplar_vectors: Float[Tensor, "k features"],
    painted: Float[Tensor, "count features"],
    activations: Float[np.ndarray, " count"],
    top: int = TOP_PICTURES,
) -> float:
    """Return the mean cosine between the top images of a unit and the ``top`` pictures that activate it most."""
    best = np.argsort(-activations, kind="stable")[:top]
    return float((exemplar_vectors @ painted[best.tolist()].T).mean())


def measure_activations(
    target: Target, units: Sequence[Unit], images: UInt8[Tensor, "b 3 height width"], pooling: str, batch_size: int
) -> dict[Unit, Float[np.ndarray, " b"]]:
    """Return each unit's pooled activation on images; NaN becomes -inf.

    Args:
        batch_size: number of images per batch; the rounding of sums, and thus the rank of near equals, depends on it.

    Raises:
        BadInput: the network makes pictures instead of looking at them.
    """
    return {unit: values for unit, (values, _) in measure_maps(target, units, images, pooling, batch_size).items()}


def measure_maps(
    target: Target, units: Sequence[Unit], images: UInt8[Tensor, "b 3 height width"], pooling: str, batch_size: int
) -> dict[Unit, tuple[Float[np.ndarray, " b"], Float[Tensor, "b h w"]]]:
    """Return each unit's pooled activation on images, and its activation maps."""
    if isinstance(target, GeneratorTarget):
        raise BadInput(
            f"{target.name} generates pictures and takes none as input; Describe-and-Dissect needs a network that takes"
            " pictures"
        )
    channels: dict[str, list[int]] = {}
    for unit in units:
        channels.setdefault(unit.layer, []).append(unit.index)
    parts: dict[str, list[Tensor]] = {layer: [] for layer in channels}

    def keep(layer: str, maps: Float[Tensor, "b units h w"], _: Float[Tensor, "b units"] | None) -> None:
        parts[layer].append(maps[:, channels[layer]].float().cpu())

    with recorded(target, list(channels), keep) as look:
        for some in images.split(batch_size):
            look(target.prepare(some))
    found = {}
    for layer, those in channels.items():
        maps = torch.cat(parts[layer])
        for place, index in enumerate(those):
            flat = maps[:, place].flatten(1).double()
            values = flat.mean(1) if pooling == "mean" else flat.amax(1)
            found[Unit(layer, index)] = values.nan_to_num(nan=-torch.inf).numpy(), maps[:, place]
    return found


def round_or_none(value: float) -> float | None:
    """Return a number rounded to four digits, for the page; None if it is not finite."""
    return float(f"{value:.{SHOWN_DIGITS}g}") if np.isfinite(value) else None
