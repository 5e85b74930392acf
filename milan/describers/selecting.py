"""Best concept selection (Describe-and-Dissect, section 3.3): candidates are painted, and the unit itself tells which it answers to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.stats import rankdata
from torch import Tensor

from milan.concepts import unlike
from milan.dissection.hooks import recorded
from milan.errors import BadInput
from milan.pretrained.embedder import Embedder, text_embeddings
from milan.pretrained.painter import Painter, pictures_of
from milan.storage import content_key
from milan.targets import GeneratorTarget, Target
from milan.units import Candidate, Unit

Scoring = Literal["mean", "topk_squared", "image_products", "topk_squared_image_products"]
BETA, TOP = 5, 10  # of TopK Squared, and t of Image Products (section 3.4)
COUNT = 10  # Q, pictures of each candidate
ALIKE = 0.81  # cosine of two labels, above which the second says nothing new (appendix A.7)
SHOWN_DIGITS = 4


@dataclass(frozen=True)
class Choice:
    """One candidate, its pictures' activations, and what it scores by each of the functions.

    ranks: of its pictures among those of all candidates, 1 for the one that moves the unit most; equal ones share the mean of theirs.
    """

    text: str
    activations: Float[np.ndarray, " count"]
    ranks: Float[np.ndarray, " count"]
    scores: dict[str, float]


@dataclass(frozen=True)
class Wish:
    """What is to be chosen for one unit: candidates, in the order they were found, and the images that move it most."""

    unit: Unit
    texts: tuple[str, ...]
    images: UInt8[Tensor, "k 3 height width"]


class Selection:
    """How the best of some candidates is found.

    Args:
        painter: draws them; embedder: compares pictures, and texts; prompt: what a candidate is put into for the painter, in the place of
        {}; scoring: by which the best is chosen; count: pictures of each; beta, top: β and t; pooling: of activation maps; seed: of the
        pictures.
    """

    def __init__(
        self,
        painter: Painter,
        embedder: Embedder,
        *,
        prompt: str = "{}",
        scoring: Scoring = "topk_squared_image_products",
        count: int = COUNT,
        beta: int = BETA,
        top: int = TOP,
        pooling: Literal["mean", "max"] = "mean",
        seed: int = 0,
    ):
        if "{}" not in prompt:
            raise BadInput(f"the painting prompt {prompt!r} has no {{}} for the candidate")
        for name, value in (("pictures", count), ("beta", beta), ("top", top)):
            if value < 1:
                raise BadInput(f"{name} is {value}; give at least 1")
        self.painter, self.embedder, self.prompt, self.scoring, self.count = painter, embedder, prompt, scoring, count
        self.beta, self.top, self.pooling, self.seed = beta, top, pooling, seed

    @property
    def key(self) -> str:
        """Content key of all that the choice depends on."""
        settings = {name: getattr(self, name) for name in ("prompt", "scoring", "count", "beta", "top", "pooling", "seed")}
        return content_key(painter=self.painter.key, embedder=self.embedder.key, **settings)

    def choose(self, target: Target, wishes: Sequence[Wish]) -> list[list[Choice]]:
        """For each wish its candidates, the best first; of equals the earlier one. All pictures are painted, and looked at, together."""
        asked = list(dict.fromkeys(self._asked(text) for wish in wishes for text in wish.texts))
        if not asked:
            return [[] for _ in wishes]
        pictures = dict(zip(asked, pictures_of(self.painter, asked, self.count, seed=self.seed, size=target.image_size), strict=True))
        flat = torch.cat(list(pictures.values()))
        values = activations(target, list(dict.fromkeys(wish.unit for wish in wishes)), flat, self.pooling, self.count)
        vectors = dict(zip(asked, self.embedder.images(flat).unflatten(0, (len(asked), self.count)), strict=True))
        found = []
        for wish in wishes:
            moved = dict(zip(asked, values[wish.unit].reshape(len(asked), self.count), strict=True))
            own = self.embedder.images(wish.images)
            texts = [self._asked(text) for text in wish.texts]
            found.append(self._ranked(wish, np.stack([moved[text] for text in texts]), [vectors[text] for text in texts], own))
        return found

    def labels(self, choices: Sequence[Choice], most: int) -> list[str]:
        """The best candidates that say different things (appendix A.7), at most so many."""
        texts = [choice.text for choice in choices]
        return unlike(texts, text_embeddings(self.embedder, texts), ALIKE)[:most] if most > 1 else texts[:1]

    def candidates(self, choices: Sequence[Choice]) -> tuple[Candidate, ...]:
        """The candidates with their scores, as a description keeps them."""
        return tuple(
            Candidate(choice.text, choice.scores[self.scoring], tuple((name, choice.scores[name]) for name in SCORES)) for choice in choices
        )

    def reasoning(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The pictures that decided, as plain values: where they are kept, and how they moved the unit."""
        painted = [
            {
                "text": choice.text,
                "asked": self._asked(choice.text),
                "activations": [rounded(value) for value in choice.activations],
                "ranks": [rounded(value) for value in choice.ranks],
            }
            for choice in choices
        ]
        return {"painted": painted, "painter": self.painter.key, "seed": self.seed}

    def _asked(self, text: str) -> str:
        return self.prompt.replace("{}", text)

    def _ranked(
        self, wish: Wish, moved: Float[np.ndarray, "texts count"], vectors: Sequence[Tensor], own: Float[Tensor, "k features"]
    ) -> list[Choice]:
        ranks = rankdata(-moved, method="average").reshape(moved.shape)
        products = [image_products(own, vector, row, self.top) for vector, row in zip(vectors, moved, strict=True)]
        tables = scores_of(ranks, np.array(products), self.beta)
        found = [
            Choice(text, moved[place], ranks[place], {name: float(tables[name][place]) for name in SCORES})
            for place, text in enumerate(wish.texts)
        ]
        return sorted(found, key=lambda choice: -choice.scores[self.scoring])


SCORES = ("mean", "topk_squared", "image_products", "topk_squared_image_products")


def scores_of(
    ranks: Float[np.ndarray, "texts count"], products: Float[np.ndarray, " texts"], beta: int = BETA
) -> dict[str, Float[np.ndarray, " texts"]]:
    """The four scoring functions (appendix A.1.4), larger being better.

    ``mean``: the negative mean rank; ``topk_squared``: the negative mean square of the β best ranks; ``image_products``: as given;
    and their product: (N - the rank of TopK Squared among the N candidates) times Image Products, so that the candidate whose pictures
    move the unit least gets 0. Ranks start at 1, as in the paper; in the released code they start at 0, those of the
    pictures too.

    >>> found = scores_of(np.array([[1.0, 4.0], [2.0, 3.0]]), np.array([0.5, 0.4]), beta=1)
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


def image_products(
    own: Float[Tensor, "k features"], painted: Float[Tensor, "count features"], moved: Float[np.ndarray, " count"], top: int = TOP
) -> float:
    """The mean cosine between the images that move a unit most and the ``top`` pictures of a candidate that do."""
    best = np.argsort(-moved, kind="stable")[:top]
    return float((own @ painted[best.tolist()].T).mean())


def activations(
    target: Target, units: Sequence[Unit], images: UInt8[Tensor, "b 3 size size"], pooling: str, together: int
) -> dict[Unit, Float[np.ndarray, " b"]]:
    """Each unit's pooled activation on some images; what is no number counts as -inf.

    together: images that go through the network at a time; how sums are rounded depends on it, and so may the rank of near equals.

    Raises:
        BadInput: the network makes pictures instead of looking at them.
    """
    return {unit: values for unit, (values, _) in looked_at(target, units, images, pooling, together).items()}


def looked_at(
    target: Target, units: Sequence[Unit], images: UInt8[Tensor, "b 3 size size"], pooling: str, together: int
) -> dict[Unit, tuple[Float[np.ndarray, " b"], Float[Tensor, "b h w"]]]:
    """Each unit's pooled activation on some images, and its activation maps."""
    if isinstance(target, GeneratorTarget):
        raise BadInput(f"{target.name} makes pictures, and is not shown any; Describe-and-Dissect needs a network that looks at pictures")
    channels: dict[str, list[int]] = {}
    for unit in units:
        channels.setdefault(unit.layer, []).append(unit.index)
    parts: dict[str, list[Tensor]] = {layer: [] for layer in channels}

    def keep(layer: str, maps: Float[Tensor, "b units h w"], _: Float[Tensor, "b units"] | None) -> None:
        parts[layer].append(maps[:, channels[layer]].float().cpu())

    with recorded(target, list(channels), keep) as look:
        for some in images.split(together):
            look(target.prepare(some))
    found = {}
    for layer, those in channels.items():
        maps = torch.cat(parts[layer])
        for place, index in enumerate(those):
            flat = maps[:, place].flatten(1).double()
            values = flat.mean(1) if pooling == "mean" else flat.amax(1)
            found[Unit(layer, index)] = values.nan_to_num(nan=-torch.inf).numpy(), maps[:, place]
    return found


def rounded(value: float) -> float | None:
    """To four digits, for the page; None for what is no number."""
    return float(f"{value:.{SHOWN_DIGITS}g}") if np.isfinite(value) else None
