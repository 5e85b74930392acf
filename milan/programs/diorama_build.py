"""Makes all that Diorama's folder holds anew: networks, their annotations by simulated annotators, and what is trained on those."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from milan.command import program
from milan.embedded import embedded
from milan.errors import BadInput, UnknownName
from milan.programs.building import NotBuilt, in_process, record, record_whole, side_by_side, timed
from milan.storage import atomic, cache_root, locked
from milan.units import Unit

if TYPE_CHECKING:
    from torch import Tensor

    from milan.dissection.store import Dissection
    from milan.scores.corpus import Corpus
    from milan.targets import Target

GENERATORS = ("generator-objects", "generator-scenes")
DINO = "dino-objects"
DESCRIBED = ("resnet-objects", "resnet-scenes", "alexnet-objects", "alexnet-scenes")
AGREEMENT, CORPUS = "agreement.json", "corpus.md"
MARK, TIMES = "made.json", "built.json"


@dataclass(frozen=True)
class Workshop:
    """Where things are made.

    data: the folder that comes with the package, ``data/diorama``; work: what only helps on the way, drawn scenes and dissections.
    """

    data: Path
    work: Path
    seed: int = 0

    def target(self, network: str) -> "Target":
        """One of Diorama's networks as it lies in ``data``."""
        from milan.targets import load_target

        file = self.data / "networks" / f"{network}.safetensors"
        if not file.is_file():
            raise BadInput(f"no {file}; make it first: python -m milan.diorama build --only {network}")
        return load_target(f"diorama:{network}", weights=file)

    def dissections(self, network: str) -> "dict[str, Dissection]":
        """All layers of a network, dissected on the probe of its own task, of a generator on its own pictures; found again if they were
        before."""
        from milan.diorama.networks import LAYERS
        from milan.dissection.dissect import dissect
        from milan.probes import Probe, load_probe
        from milan.targets import GeneratorTarget

        target = self.target(network)
        if isinstance(target, GeneratorTarget):
            probe = Probe.made_by(target, spec=f"latents:diorama:{network}")
        else:
            probe = load_probe(f"diorama:{network.rpartition('-')[2]}")
        return dissect(target, probe, LAYERS[network], self.work / "dissections" / network)


@dataclass(frozen=True)
class Part:
    """Something that is built: what makes it, given where; the files (in ``data``) that are there once it is made; the parts it needs."""

    make: Callable[[Workshop], None]
    files: tuple[str, ...]
    text: str
    needs: tuple[str, ...] = ()


def train_network(name: str) -> Part:
    def make(shop: Workshop) -> None:
        from milan.diorama.training import train

        measured = train(name, shop.data / "networks", shop.work, seed=shop.seed)
        print(f"{name}: right on held-out scenes, in percent: {measured}")

    return Part(make, (f"networks/{name}.safetensors", f"networks/{name}.json"), f"train {name}, and measure it on held-out scenes")


def train_generator(name: str) -> Part:
    def make(shop: Workshop) -> None:
        from milan.diorama.generating import train_generator

        measured = train_generator(name.partition("-")[2], shop.data / "networks", shop.work, seed=shop.seed)
        print(f"{name}: pictures put into their class by the classifier, in percent: {measured}")

    files = (f"networks/{name}.safetensors", f"networks/{name}.json")
    return Part(make, files, f"train {name}, and have its pictures judged", ("encoder", f"resnet-{name.partition('-')[2]}"))


def train_dino(shop: Workshop) -> None:
    from milan.diorama.dino import train

    measured = train(shop.data / "networks", shop.work, seed=shop.seed)
    print(f"{DINO}: named rightly by its nearest neighbours on held-out scenes, in percent: {measured}")


def annotate_network(name: str) -> Part:
    def make(shop: Workshop) -> None:
        from milan.describers.annotators import simulated
        from milan.dissection.exchange import export_compact

        for layer, dissection in shop.dissections(name).items():
            texts = {unit: simulated(dissection, unit, shop.seed) for unit in dissection.alive()}
            export_compact(dissection, shop.data / "annotations" / name, texts)
            print(f"{name} {layer}: {len(texts)} units annotated")
        with atomic(shop.data / "annotations" / name / MARK) as path:
            path.write_text(json.dumps({"annotators": "simulated", "network": name, "seed": shop.seed}, indent=1) + "\n")

    return Part(make, (f"annotations/{name}/{MARK}",), f"dissect {name} and annotate its units by three simulated annotators", (name,))


def train_model(name: str) -> Part:
    """MILAN's captioner or prior, by ``train.py fit`` with its configuration, kept in half precision."""

    def make(shop: Workshop) -> None:
        from milan.models import Captioner, Prior
        from milan.programs.train import train

        run = shop.work / "training" / f"{name}-{shop.seed}"
        options = ["--data.seed", str(shop.seed), "--seed_everything", str(shop.seed), "--out", str(run)]
        if shop.data != embedded("data") / "diorama":  # which the configuration means by "diorama"
            options += ["--data.folders", json.dumps([str(shop.data / "annotations" / network) for network in sorted(DESCRIBED)])]
            if name == "captioner":
                options += ["--data.encoder_weights", str(shop.data / "networks" / "encoder.safetensors")]
        train(["fit", "--config", str(embedded(f"configs/{name}.yaml")), *options])
        model = Captioner.from_pretrained(run) if name == "captioner" else Prior.from_pretrained(run)
        model.save_pretrained(shop.data / name, half=True)

    needs = ("encoder", *(f"annotations-{network}" for network in DESCRIBED))
    return Part(make, (f"{name}/model.safetensors", f"{name}/config.json"), f"train MILAN's {name} on the annotations", needs)


def train_stand_in(name: str) -> Part:
    """One of the stand-ins of the big image-text models, with its quality and its card."""
    weights = "open_clip_model.safetensors" if name == "clip" else "model.safetensors"

    def make(shop: Workshop) -> None:
        from milan.diorama.image_text import PLANS, train
        from milan.pretrained.embedder import load_embedder
        from milan.pretrained.stand_ins import quality, write_card

        folder, family = shop.data / name, PLANS[name].family
        facts = train(name, folder, shop.work, seed=shop.seed)
        embedder = load_embedder(f"open_clip:local-dir:{folder}" if family == "open_clip" else f"hf:{folder}")
        measured = quality(embedder, shop.work)
        write_card(folder, {**facts, "held_out": measured}, family)
        print(f"{name}: on held-out scenes, in percent: {measured}")

    return Part(make, (f"{name}/{weights}", f"{name}/quality.json"), f"train the stand-in {name} on scenes and what is said of them")


def train_captioner(shop: Workshop) -> None:
    """The stand-in of the image captioners, a BLIP, with its quality and its card."""
    from milan.diorama.captioning import train
    from milan.pretrained.captioner import load_captioner
    from milan.pretrained.speaking import caption_quality, write_caption_card

    folder = shop.data / "blip"
    known = train(folder, shop.work, seed=shop.seed)
    measured = caption_quality(load_captioner(f"hf:{folder}", batch_size=50))
    write_caption_card(folder, {**known, "held_out": measured})
    print(f"blip: on held-out scenes, in percent: {measured}")


def judge_painter(shop: Workshop) -> None:
    """What the classifiers make of the exact painter's pictures; writes ``painter/quality.json``."""
    from milan.diorama.training import prepared
    from milan.pretrained.painter import load_painter
    from milan.pretrained.speaking import painter_quality

    def judge(world: str) -> "Callable[[Tensor], Tensor]":
        network = shop.target(f"resnet-{world}").model.eval().requires_grad_(False)
        return lambda pictures: network(prepared(pictures))

    measured = painter_quality(load_painter(), {world: judge(world) for world in ("objects", "scenes")})
    facts = {"painter": "diorama", "judges": ["resnet-objects", "resnet-scenes"], "recognised in percent": measured}
    (shop.data / "painter").mkdir(parents=True, exist_ok=True)
    with atomic(shop.data / "painter" / "quality.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"painter: recognised, in percent: {measured}")


def agree(shop: Workshop) -> None:
    """Measures how far the annotators agree with each other and how true what they say is, and what their words are like.

    Writes ``annotations/agreement.json`` (with what Tables 4 and 5 of MILAN show) and ``annotations/corpus.md`` for all annotated networks.
    """
    from milan.dissection.exchange import annotations_of
    from milan.scores.corpus import corpus, corpus_table

    home = shop.data / "annotations"
    said = {mark.parent.name: annotations_of(mark.parent) for mark in sorted(home.glob(f"*/{MARK}"))}
    words = {network: _in_order(network, corpus(texts)) for network, texts in said.items()}
    everything = [(Unit(network, number), texts) for network, each in said.items() for number, texts in enumerate(each.values())]
    words["all"] = {"total": corpus(dict(everything))["total"]}
    told = {network: {**_agreement_of(network, texts, shop), "corpus": _plain(words[network])} for network, texts in said.items()}
    facts = {"annotators": "simulated", "networks": told, "all": _plain(words["all"])["total"]}
    with atomic(home / AGREEMENT) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    with atomic(home / CORPUS) as path:
        path.write_text("What simulated annotators say, in numbers (columns as in MILAN's Table 5)\n\n" + corpus_table(words))
    print(json.dumps(facts["all"]))


def _in_order(network: str, words: "dict[str, Corpus]") -> "dict[str, Corpus]":
    """Layers from the picture inwards, where the network's are known, and their total at the end."""
    from milan.diorama.networks import LAYERS

    known = [layer for layer in LAYERS.get(network, []) if layer in words]
    return {layer: words[layer] for layer in dict.fromkeys([*known, *words])}


def _plain(words: "dict[str, Corpus]") -> dict[str, dict[str, float]]:
    return {layer: asdict(each) for layer, each in words.items()}


def _agreement_of(network: str, said: Mapping[Unit, Sequence[str]], shop: Workshop) -> dict[str, object]:
    from milan.scores.truth import Truth

    truths: dict[str, list[float]] = {"of each annotator": [], "of shuffled descriptions": []}
    for layer, dissection in shop.dissections(network).items():
        truth = Truth.of(dissection, shop.target(network), shop.work)
        units = [unit for unit in said if unit.layer == layer]
        others = [units[i] for i in np.random.default_rng(shop.seed).permutation(len(units))]
        for unit, other in zip(units, others, strict=True):
            truths["of each annotator"] += [truth.score(unit, text) for text in said[unit]]
            truths["of shuffled descriptions"] += [truth.score(unit, text) for text in said[other]]
    return {"units": len(said), "descriptions": sum(map(len, said.values())), **agreement(said),
            "truth score": {who: round(float(np.nanmean(scores)), 4) for who, scores in truths.items()}}  # fmt: skip


def agreement(said: Mapping[Unit, Sequence[str]]) -> dict[str, float]:
    """How alike the texts of each unit are: corpus BLEU and mean ROUGE-L (0..100) of each annotator's against those of the others.

    Units with fewer than two texts are left out.
    """
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    several = [texts for texts in said.values() if len(texts) > 1]
    ones = [text for texts in several for text in texts]
    rests = [[other for j, other in enumerate(texts) if j != i] for texts in several for i in range(len(texts))]
    deep = max(map(len, rests))
    references = [[rest[min(i, len(rest) - 1)] for rest in rests] for i in range(deep)]  # a shorter row's last text is said twice
    scorer = RougeScorer(["rougeL"])
    rouge = [max(scorer.score(other, one)["rougeL"].fmeasure for other in rest) for one, rest in zip(ones, rests, strict=True)]
    distinct = len(set(ones))
    return {"bleu": round(sacrebleu.corpus_bleu(ones, references).score, 2), "rouge-l": round(100 * sum(rouge) / len(rouge), 2),
            "distinct descriptions": distinct, "mean words": round(sum(len(one.split()) for one in ones) / len(ones), 2)}  # fmt: skip


def train_segmenter(shop: Workshop) -> None:
    from milan.diorama.labelling import train_labeller

    measured = train_labeller(shop.data, shop.work, seed=shop.seed)
    print(f"segmenter: mean IoU of each kind of label on held-out scenes: {measured}")


def plant_units(shop: Workshop) -> None:
    from milan.programs.planted_build import build_planted

    print(f"planted: mean IoU of each kind of unit: {build_planted(shop.data, shop.work, shop.seed)}")


ANNOTATED = (*DESCRIBED, *GENERATORS, DINO)  # the seven of MILANNOTATIONS in miniature

PARTS: dict[str, Part] = {
    DINO: Part(
        train_dino, (f"networks/{DINO}.safetensors", f"networks/{DINO}.json"), "train the transformer that teaches itself, and measure it"
    ),
    **{name: train_network(name) for name in ("encoder", *DESCRIBED, "resnet-spurious", "resnet-blurred")},
    "segmenter": Part(
        train_segmenter, ("segmenter/model.safetensors", "segmenter/config.json"), "train the segmenter on pixel labels", ("encoder",)
    ),
    "planted": Part(
        plant_units, ("networks/planted.safetensors", "networks/planted.json"), "plant known units, and measure them", ("segmenter",)
    ),
    **{name: train_generator(name) for name in GENERATORS},
    **{f"annotations-{name}": annotate_network(name) for name in ANNOTATED},
    "agreement": Part(
        agree,
        (f"annotations/{AGREEMENT}", f"annotations/{CORPUS}"),
        "measure how far the simulated annotators agree, how true they are, and what their words are like",
        ("segmenter", *(f"annotations-{name}" for name in ANNOTATED)),
    ),
    **{name: train_model(name) for name in ("captioner", "prior")},
    **{name: train_stand_in(name) for name in ("clip", "siglip-small", "siglip-large")},
    "blip": Part(train_captioner, ("blip/model.safetensors", "blip/quality.json"), "train the stand-in of the image captioners"),
    "painter": Part(
        judge_painter,
        ("painter/quality.json",),
        "measure what classifiers make of the exact painter's pictures",
        ("resnet-objects", "resnet-scenes"),
    ),
}  # in the order in which they need each other


def build(
    only: list[str] | None = None,
    out: str | None = None,
    work: str | None = None,
    seed: int = 0,
    again: bool = False,
    jobs: int | None = None,
) -> None:
    """Makes the parts of Diorama's data that are not there yet, each whole or not at all, and on one thread.

    What each took is kept in ``built.json``, and what all did if they are made in one go. If a part fails, those that do not need it are
    made all the same.

    Args:
        only: these parts, also if they are there already.
        out: where to; the data/diorama of this installation unless given.
        work: where drawn scenes, dissections and logs are kept; a folder in the cache unless given.
        seed: of the training and of the annotators.
        again: make all parts anew.
        jobs: how many parts are made side by side, each in a process of its own; as many as there are processors unless given.

    Raises:
        UnknownName: a part that there is not.
        NotBuilt: some parts could not be made.
    """
    unknown = [name for name in only or [] if name not in PARTS]
    if unknown:
        raise UnknownName("part", unknown[0], PARTS, "one of: " + ", ".join(PARTS))
    if jobs is not None and jobs < 1:
        raise BadInput(f"--jobs {jobs}: at least one part is made at a time; leave it out for as many as there are processors")
    data = Path(out) if out else embedded("data") / "diorama"
    shop = Workshop(data, Path(work) if work else cache_root() / "diorama", seed)
    wanted = [name for name, part in PARTS.items() if (name in only if only else again or not _there(part, data))]
    if len(wanted) == 1:
        make_part(wanted[0], shop)
        return
    options = ["--out", str(data), "--work", str(shop.work), "--seed", str(seed)]
    command = [sys.executable, "-m", "milan.diorama", "build", *options, "--only"]

    def make(name: str) -> bool:
        return in_process(name, [*command, name], shop.work / "parts" / name / "log.txt")

    started, jobs = monotonic(), jobs or os.cpu_count() or 1
    missing = side_by_side({name: PARTS[name].needs for name in wanted}, jobs, make)
    if missing:
        why = ", ".join(f"{name} ({reason})" for name, reason in missing.items())
        raise NotBuilt(f"{len(missing)} of {len(wanted)} parts were not built: {why}; run the same command again to make what is missing")
    if len(wanted) == len(PARTS):
        record_whole(data / TIMES, monotonic() - started, jobs, turn=shop.work / "parts")


def _there(part: Part, data: Path) -> bool:
    return all((data / file).is_file() for file in part.files)


def make_part(name: str, shop: Workshop) -> None:
    """Makes a part in this process, and keeps what it took."""
    part, room = PARTS[name], shop.work / "parts"
    with locked(room / name):  # two builds can make other parts side by side
        print(f"{name}: {part.text}", flush=True)
        took = timed(lambda: part.make(shop))
        record(shop.data / TIMES, name, took, turn=room)
        print(f"{name}: done in {took.seconds:.0f} s ({took.cpu:.0f} s of processors)", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """``python -m milan.diorama build``: reads the options, builds, and gives the exit status."""
    text = "Makes Diorama's networks and annotations anew. Parts: " + ", ".join(PARTS)
    return program("python -m milan.diorama build", text, build, words, "build")
