"""What makes MILAN better? Changes to its training and search, chosen on some networks left out, judged on others by the truth score.

    python -m benchmarks.better_describer --out runs/generalization [--seeds 5] [--embedder diorama] [--changes λ ensemble]

Captioners and priors are those that ``python -m milan.experiments generalization`` trained in the same folder for the splits that leave one
network out; what is not there is trained. Of each kind of change the setting is taken that is truest on the AlexNets; the table tells what
it gives there and on the ResNets, which had no part in the choice, beside MILAN as published (beam 50, λ 0.2), and the interval of the
difference by drawing units again. What needs a training of its own (the last layer's features alone, a transformer for the LSTM, stopping
by the loss) is trained under the first seed and kept. Annotators and world are simulated (Diorama).
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from benchmarks.transformer_captioner import TransformerCaptioner
from milan.annotations import Annotated
from milan.describers.sand import masked
from milan.embedded import embedded
from milan.experiments.fitting import Evidence, Fitted, Lessons, Recipe, fit, search, seeded
from milan.experiments.judging import Judge, Round
from milan.experiments.learning import Plan, Stage, trained
from milan.experiments.splits import Share, Split, networks_of, share_of, splits_of
from milan.models import CaptionBatch, Captioner, load_encoder
from milan.models.captioner import bleu
from milan.pretrained.embedder import Embedder, load_embedder
from milan.scores.intervals import mean
from milan.scores.truth import Truth

BEAM, STEPS, WEIGHT = 50, 15, 0.2  # as published
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
PULLS = (0.0, 2.0, 5.0, 10.0, 20.0, 40.0)  # of the embedder's cosine
Texts = list[str]  # one for each unit


@dataclass(frozen=True)
class Heard:
    """The texts that one training finds for each of some units, and how likely each is."""

    units: tuple[Annotated, ...]
    texts: list[Texts]
    likelihood: list[np.ndarray]
    prior: list[np.ndarray]

    def best(self, weight: float = WEIGHT, shrink: float = 0.0, pull: float = 0.0, near: Sequence[np.ndarray] = ()) -> Texts:
        """The text of highest (log p(d|E) - weight * log p(d)) / words^shrink + pull * cosine, of each unit."""
        found = []
        for row, texts in enumerate(self.texts):
            scores = self.likelihood[row] - weight * self.prior[row]
            if shrink:
                scores = scores / np.array([1 + len(text.split()) for text in texts]) ** shrink
            if pull:
                scores = scores + pull * near[row]
            found.append(texts[int(np.argmax(scores))])
        return found


def heard(fitted: Fitted, evidence: Evidence, units: Sequence[Annotated], beam: int = BEAM) -> Heard:
    vocabulary = fitted.captioner.vocabulary
    texts, likelihood, prior = [], [], []
    for batch in search(fitted, evidence.features(units), beam, STEPS):
        for row in range(len(batch.likelihood)):
            kept = batch.likelihood[row].isfinite()
            texts.append([vocabulary.decode(tokens.tolist()) for tokens in batch.found.tokens[row][kept]])
            likelihood.append(batch.likelihood[row][kept].numpy())
            prior.append(batch.prior[row][kept].numpy())
    return Heard(tuple(units), texts, likelihood, prior)


class LastLayer(Evidence):
    """The features of the encoder's last stage alone."""

    def features(self, units: Sequence[Annotated]) -> Tensor:
        last = self.encoder.target.layer(self.encoder.layers[-1]).units
        return super().features(units)[..., -last:].contiguous()


@dataclass
class Court:
    """What is true of a text, asked once."""

    truths: Mapping[Path, Truth]
    known: dict[tuple[Path, str, str], float] = field(default_factory=dict)

    def score(self, one: Annotated, text: str) -> float:
        key = (one.source, str(one.unit), text)
        if key not in self.known:
            self.known[key] = self.truths[one.source].score(one.unit, text)
        return self.known[key]

    def mean(self, units: Sequence[Annotated], texts: Texts) -> float:
        return float(np.nanmean([self.score(one, text) for one, text in zip(units, texts, strict=True)]))


@dataclass
class Case:
    """One network left out: its trainings, and what they find."""

    split: Split
    plan: Plan
    evidence: Evidence
    court: Court
    folder: Path
    found: dict[object, Heard] = field(default_factory=dict)

    @property
    def judging(self) -> bool:
        """Whether it has no part in choosing."""
        return not self.split.name.startswith("alexnet")

    def share(self, seed: int) -> Share:
        return share_of(self.split, seed)

    def fitted(self, seed: int) -> Fitted:
        return trained(self.split, self.share(seed), self.plan, self.evidence, seed, self.folder)

    def heard(self, seed: int, beam: int = BEAM, *, stop: bool = False) -> Heard:
        """What a training finds for the units of the network left out, or for those kept for stopping."""
        key = ("heard", seed, beam, stop)
        if key not in self.found:
            share = self.share(seed)
            self.found[key] = heard(self.fitted(seed), self.evidence, share.stop if stop else share.test, beam)
        return self.found[key]

    def together(self, seeds: int) -> Heard:
        """The texts of all trainings, each as likely as it is to them all in the mean."""
        if ("together",) not in self.found:
            several = [self.fitted(seed) for seed in range(seeds)]
            parts = [self.heard(seed) for seed in range(seeds)]
            units = parts[0].units
            texts = [list(dict.fromkeys(text for part in parts for text in part.texts[row])) for row in range(len(units))]
            features = self.evidence.features(units)
            scores = [_scored(fitted, features, texts) for fitted in several]
            likelihood = [np.mean([score[0][row] for score in scores], 0) for row in range(len(units))]
            prior = [np.mean([score[1][row] for score in scores], 0) for row in range(len(units))]
            self.found[("together",)] = Heard(units, texts, likelihood, prior)
        return self.found[("together",)]


@torch.no_grad()
def _scored(fitted: Fitted, features: Tensor, texts: list[Texts]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """log p(d|E) and log p(d) of each unit's texts under one training, in its own words."""
    vocabulary = fitted.captioner.vocabulary
    likelihood, prior = [], []
    for row, own in enumerate(texts):
        ids = [vocabulary.encode(text) for text in own]
        length = max(map(len, ids))
        tokens = torch.tensor([[*each, *[vocabulary.stop] * (length - len(each))] for each in ids])
        likelihood.append(fitted.captioner.score(features[row : row + 1], tokens.unsqueeze(0))[0].numpy())
        prior.append(fitted.prior.score(tokens).numpy())
    return likelihood, prior


@dataclass(frozen=True)
class Change:
    """One kind of change: what each of its settings says of a network's units under a seed."""

    name: str
    settings: Mapping[str, Callable[[Case, int], Texts]]


def changes(seeds: int, near: Callable[[Case, int], list[np.ndarray]] | None) -> list[Change]:
    """Those that need no other training."""
    found = [
        Change("λ", {f"λ {weight:g}": lambda case, seed, weight=weight: case.heard(seed).best(weight) for weight in WEIGHTS}),
        Change("λ by validation", {"by the truth of the units kept for stopping": _validated}),
        Change("beam", {f"beam {beam}": lambda case, seed, beam=beam: case.heard(seed, beam).best() for beam in (5, 10, 25, 50)}),
        Change(
            "length normalisation",
            {
                f"words^{shrink:g}, λ {weight:g}": lambda case, seed, shrink=shrink, weight=weight: case.heard(seed).best(weight, shrink)
                for shrink in (0.5, 1.0)
                for weight in (0.0, WEIGHT)
            },
        ),
    ]
    if seeds > 1:
        names = {f"of {seeds} seeds, λ {weight:g}": weight for weight in WEIGHTS}
        settings = {name: lambda case, _seed, weight=weight: case.together(seeds).best(weight) for name, weight in names.items()}
        found.append(Change("ensemble", settings))
    if near is not None:
        found.append(Change("reranking by the embedder", {
            f"cosine x {pull:g}, λ {weight:g}":
                lambda case, seed, pull=pull, weight=weight: case.heard(seed).best(weight, pull=pull, near=near(case, seed))
            for pull in PULLS for weight in (0.0, WEIGHT)
        }))  # fmt: skip
    return found


def _validated(case: Case, seed: int) -> Texts:
    """λ is the one that is truest on units of the training networks that were not trained on."""
    kept = case.heard(seed, stop=True)
    weight = max(WEIGHTS, key=lambda weight: case.court.mean(kept.units, kept.best(weight)))
    return case.heard(seed).best(weight)


@dataclass
class Looking:
    """How near each text is to what is left of a unit's exemplars when all else is black, by an image-text model."""

    spec: str
    vectors: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[tuple[Path, str], Tensor] = field(default_factory=dict)

    @cached_property
    def embedder(self) -> Embedder:
        return load_embedder(self.spec)

    def near(self, case: Case, seed: int) -> list[np.ndarray]:
        """The mean cosine of a unit's masked exemplars with each of its texts."""
        found = case.heard(seed)
        new = sorted({text for texts in found.texts for text in texts} - self.vectors.keys())
        for begin in range(0, len(new), 256):
            part = new[begin : begin + 256]
            self.vectors.update(zip(part, self.embedder.texts(part), strict=True))
        return [
            (torch.stack([self.vectors[text] for text in texts]) @ self._picture(case, one)).numpy()
            for one, texts in zip(found.units, found.texts, strict=True)
        ]

    def _picture(self, case: Case, one: Annotated) -> Tensor:
        key = (one.source, str(one.unit))
        if key not in self.pictures:
            exemplars = case.evidence.dissection(one.source).exemplars(one.unit)
            self.pictures[key] = self.embedder.images(masked(exemplars.images, exemplars.masks)).mean(0)
        return self.pictures[key]


def trainings(evidence: Evidence) -> list[Change]:
    """Those that need one, under the first seed only; decoded with λ 0 and as published."""
    last = LastLayer(evidence.encoder)
    makers: dict[str, Callable[[Case], Heard]] = {
        "last layer's features": lambda case: _trained_otherwise(case, last, "lstm", "bleu"),
        "transformer for the LSTM": lambda case: _trained_otherwise(case, case.evidence, "transformer", "bleu"),
        "stopped by the loss": lambda case: _trained_otherwise(case, case.evidence, "lstm", "loss"),
    }
    return [
        Change(name, {f"λ {weight:g}": lambda case, _seed, make=make, name=name, weight=weight: _once(case, name, make).best(weight)
                      for weight in (0.0, WEIGHT)})
        for name, make in makers.items()
    ]  # fmt: skip


def _once(case: Case, name: str, make: Callable[[Case], Heard]) -> Heard:
    if name not in case.found:
        case.found[name] = make(case)
    return case.found[name]


def _trained_otherwise(case: Case, evidence: Evidence, model: str, judge: str) -> Heard:
    """A captioner of another kind beside the same prior, first seed; kept in the folder."""
    share, prior = case.share(0), case.fitted(0).prior
    lessons = Lessons(share, evidence, case.plan.recipe, 0)
    with seeded(0):
        captioner, rate = _made(model, lessons)
        file = case.folder / "models" / f"{model}-{judge}-{type(evidence).__name__}-{case.split.name}.pt"
        if file.exists():
            captioner.load_state_dict(torch.load(file, weights_only=True))
        else:
            facts = fit(captioner, captioner.loss, lessons.batches, _judged(captioner, lessons, judge), case.plan.recipe, rate=rate,
                        patience=case.plan.recipe.patience or 4)  # fmt: skip
            torch.save(captioner.state_dict(), file)
            print(f"{case.split.name}, {model}, {judge}, {type(evidence).__name__}: {facts}", flush=True)
    return heard(Fitted(captioner.eval(), prior, {}), evidence, share.test)


def _made(model: str, lessons: Lessons) -> tuple[Captioner | TransformerCaptioner, float]:
    words, features, recipe = lessons.vocabulary.words, lessons.features.shape[-1], lessons.recipe
    if model == "transformer":
        return TransformerCaptioner(words, features), 1e-3
    sizes = {"embedding": recipe.embedding, "hidden": recipe.hidden, "attention": recipe.hidden, "dropout": recipe.dropout}
    return Captioner(words, features=features, **sizes), recipe.learning_rate


def _judged(captioner: Captioner | TransformerCaptioner, lessons: Lessons, judge: str) -> Callable[[], float]:
    if judge == "bleu":
        references = [list(one.texts) for one in lessons.share.stop]
        return lambda: bleu(captioner.greedy_texts(lessons.stop_features), references)
    rows = [row for row, one in enumerate(lessons.share.stop) for _ in one.texts]
    rest = CaptionBatch(lessons.stop_features[rows], lessons.stop_texts)
    return lambda: -captioner.loss(rest).item()


@dataclass(frozen=True)
class Verdict:
    """A setting's truth on the networks chosen on and on those judged on, and its difference to MILAN as published there."""

    change: str
    setting: str
    chosen: float
    judged: float
    difference: str
    rouge: float
    distinct: float

    def row(self) -> str:
        cells = [self.change, self.setting, f"{self.chosen:.3f}", f"{self.judged:.3f}", self.difference]
        return f"| {' | '.join([*cells, f'{self.rouge:.3f}', f'{self.distinct:.0f}'])} |"


def verdicts(cases: Sequence[Case], every: Sequence[Change], seeds: int) -> Iterator[Verdict]:
    """Of each change the setting that is truest on the networks chosen on."""
    judged, chosen = [case for case in cases if case.judging], [case for case in cases if not case.judging]
    for change in every:
        rounds = range(1) if change.name in ("ensemble", *SINGLE) else range(seeds)
        means = {
            name: np.mean([_truth(case, say(case, seed)) for case in chosen for seed in rounds]) for name, say in change.settings.items()
        }
        best = max(means, key=lambda name: means[name])
        told = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        print(f"{change.name}, on the networks chosen on: {told}", flush=True)
        yield _verdict(change, best, float(means[best]), judged, rounds, seeds)


SINGLE = ("last layer's features", "transformer for the LSTM", "stopped by the loss")


def _truth(case: Case, texts: Texts) -> float:
    return case.court.mean(case.heard(0).units, texts)


def _verdict(change: Change, best: str, value: float, judged: Sequence[Case], rounds: range, seeds: int) -> Verdict:
    say = change.settings[best]
    differences, scores, rouges, distinct = [], [], [], []
    for case in judged:
        units = case.heard(0).units
        own = np.array([[case.court.score(one, text) for one, text in zip(units, say(case, seed), strict=True)] for seed in rounds])
        base = range(1) if change.name in SINGLE else range(seeds)
        plain = np.array([[case.court.score(one, text) for one, text in zip(units, case.heard(seed).best(), strict=True)] for seed in base])
        differences += (own.mean(0) - plain.mean(0)).tolist()
        scores += own.mean(0).tolist()
        measured = [Judge().scores([Round.of(units, say(case, seed)) for seed in rounds])]
        rouges.append(measured[0]["ROUGE-L"].value)  # type: ignore[union-attr]
        distinct.append(measured[0]["distinct"].value)  # type: ignore[union-attr]
    found = mean(differences)
    told = f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return Verdict(change.name, best, value, float(np.nanmean(scores)), told, float(np.mean(rouges)), float(np.mean(distinct)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/generalization"), help="folder of the experiment generalization")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--changes", nargs="*", help="only these, by the first words of their names; those that need other trainings too")
    parser.add_argument("--networks", nargs="*", help="only these left out; all classifiers by default, from whose others MILAN learns")
    parser.add_argument("--embedder", default="diorama", help="image-text model to rerank by; none leaves it out")
    options = parser.parse_args()
    known = yaml.safe_load((embedded("configs/experiments") / "generalization.yaml").read_text())
    recipe = Recipe(**{name: value for name, value in known.items() if name in Recipe().settings})
    plan = Plan(recipe, options.seeds, BEAM, STEPS, WEIGHT)
    evidence = Evidence(load_encoder(known["encoder"]))
    networks = [network for network in networks_of(["diorama"]) if network.task == "classifiers"]
    court = Court({layer: truth for network in networks for layer, truth in Stage(network, evidence).truths().items()})
    cases = []
    for split in splits_of(networks):
        if split.kind == "leave one out" and (not options.networks or split.name in options.networks):
            cases.append(Case(split, plan, evidence, court, options.out))
    near = None if options.embedder == "none" else Looking(options.embedder).near
    every = [Change("as published", {"beam 50, λ 0.2": lambda case, seed: case.heard(seed).best()}), *changes(options.seeds, near)]
    every += trainings(evidence)
    every = [change for change in every if not options.changes or change.name.startswith((*options.changes, "as published"))]
    rows = [verdict.row() for verdict in verdicts(cases, every, options.seeds)]
    print("\n| change | setting | truth, AlexNets | truth, ResNets | difference to MILAN | ROUGE-L | distinct |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
