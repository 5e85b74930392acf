"""Makes all that Diorama's folder holds anew: networks, their annotations by simulated annotators, and what is trained
on those.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from milan.console.command_line import program
from milan.diorama_build.parallel_build import (
    BuildFailed,
    measure_time,
    record_time,
    record_total_time,
    run_in_parallel,
    run_subprocess,
)
from milan.errors import BadInput, UnknownName
from milan.storage.files import atomic_write, cache_root, lock_folder
from milan.storage.packaged_data import locate_packaged_data
from milan.units import Unit

if TYPE_CHECKING:
    from torch import Tensor

    from milan.dissection.store import Dissection
    from milan.scores.corpus_statistics import CorpusStatistics
    from milan.targets.target import Target

GENERATORS = ("generator-objects", "generator-scenes")
DINO = "dino-objects"
CLASSIFIERS = ("resnet-objects", "resnet-scenes", "alexnet-objects", "alexnet-scenes")
AGREEMENT_FILE, CORPUS_FILE = "agreement.json", "corpus.md"
DRAWING_FILE, TIMES_FILE = "made.json", "built.json"


@dataclass(frozen=True)
class BuildFolders:
    """Where things are made.

    data: the folder that comes with the package, ``data/diorama``; work: what only helps on the way, drawn scenes and
        dissections.
    """

    data: Path
    work: Path
    seed: int = 0

    def target(self, network: str) -> "Target":
        """One of Diorama's networks as it lies in ``data``."""
        from milan.targets.loading import load_target

        file = self.data / "networks" / f"{network}.safetensors"
        if not file.is_file():
            raise BadInput(f"no {file}; make it first: python -m milan.diorama build --only {network}")
        return load_target(f"diorama:{network}", weights=file)

    def dissections(self, network: str) -> "dict[str, Dissection]":
        """All layers of a network, dissected on the probe of its own task, of a generator on its own pictures; found
        again if they were
        before."""
        from milan.diorama.networks import LAYERS
        from milan.dissection.dissect import dissect
        from milan.probes import Probe, load_probe
        from milan.targets.generator_target import GeneratorTarget

        target = self.target(network)
        if isinstance(target, GeneratorTarget):
            probe = Probe.from_generator(target, spec=f"latents:diorama:{network}")
        else:
            probe = load_probe(f"diorama:{network.rpartition('-')[2]}")
        return dissect(target, probe, LAYERS[network], self.work / "dissections" / network)


@dataclass(frozen=True)
class BuildStep:
    """Something that is built: what makes it, given where; the files (in ``data``) that are there once it is made; the
    parts it needs.
    """

    run: Callable[[BuildFolders], None]
    outputs: tuple[str, ...]
    description: str
    requires: tuple[str, ...] = ()


def make_network_step(name: str) -> BuildStep:
    def make(shop: BuildFolders) -> None:
        from milan.diorama_build.classifier_training import train_network

        measured = train_network(name, shop.data / "networks", shop.work, seed=shop.seed)
        print(f"{name}: right on held-out scenes, in percent: {measured}")

    return BuildStep(
        make,
        (f"networks/{name}.safetensors", f"networks/{name}.json"),
        f"train {name}, and measure it on held-out scenes",
    )


def make_generator_step(name: str) -> BuildStep:
    def make(shop: BuildFolders) -> None:
        from milan.diorama_build.generator_training import train_generator

        measured = train_generator(name.partition("-")[2], shop.data / "networks", shop.work, seed=shop.seed)
        print(f"{name}: pictures put into their class by the classifier, in percent: {measured}")

    files = (f"networks/{name}.safetensors", f"networks/{name}.json")
    return BuildStep(
        make, files, f"train {name}, and have its pictures judged", ("encoder", f"resnet-{name.partition('-')[2]}")
    )


def train_dino(folders: BuildFolders) -> None:
    from milan.diorama_build.dino_training import train_dino

    measured = train_dino(folders.data / "networks", folders.work, seed=folders.seed)
    print(f"{DINO}: named rightly by its nearest neighbours on held-out scenes, in percent: {measured}")


def make_annotation_step(name: str) -> BuildStep:
    def make(shop: BuildFolders) -> None:
        from milan.describers.annotators import simulate_annotations
        from milan.dissection.milannotations import export_compact

        for layer, dissection in shop.dissections(name).items():
            texts = {unit: simulate_annotations(dissection, unit, shop.seed) for unit in dissection.active_units()}
            export_compact(dissection, shop.data / "annotations" / name, texts)
            print(f"{name} {layer}: {len(texts)} units annotated")
        with atomic_write(shop.data / "annotations" / name / DRAWING_FILE) as path:
            path.write_text(
                json.dumps({"annotators": "simulated", "network": name, "seed": shop.seed}, indent=1) + "\n"
            )

    return BuildStep(
        make,
        (f"annotations/{name}/{DRAWING_FILE}",),
        f"dissect {name} and annotate its units by three simulated annotators",
        (name,),
    )


def make_model_step(name: str) -> BuildStep:
    """MILAN's captioner or prior, by ``train.py fit`` with its configuration, kept in half precision."""

    def make(shop: BuildFolders) -> None:
        from milan.cli.train import train
        from milan.models import Captioner, Prior

        run = shop.work / "training" / f"{name}-{shop.seed}"
        options = ["--data.seed", str(shop.seed), "--seed_everything", str(shop.seed), "--out", str(run)]
        if shop.data != locate_packaged_data("data") / "diorama":  # which the configuration means by "diorama"
            options += [
                "--data.folders",
                json.dumps([str(shop.data / "annotations" / network) for network in sorted(CLASSIFIERS)]),
            ]
            if name == "captioner":
                options += ["--data.encoder_weights", str(shop.data / "networks" / "encoder.safetensors")]
        train(["fit", "--config", str(locate_packaged_data(f"configs/{name}.yaml")), *options])
        model = Captioner.from_pretrained(run) if name == "captioner" else Prior.from_pretrained(run)
        model.save_pretrained(shop.data / name, half=True)

    needs = ("encoder", *(f"annotations-{network}" for network in CLASSIFIERS))
    return BuildStep(
        make, (f"{name}/model.safetensors", f"{name}/config.json"), f"train MILAN's {name} on the annotations", needs
    )


def make_stand_in_step(name: str) -> BuildStep:
    """One of the stand-ins of the big image-text models, with its quality and its card."""
    weights = "open_clip_model.safetensors" if name == "clip" else "model.safetensors"

    def make(shop: BuildFolders) -> None:
        from milan.diorama_build.image_text_quality import measure_embedder, write_card
        from milan.diorama_build.image_text_training import CONFIGS, train_image_text_model
        from milan.pretrained.embedder import load_embedder

        folder, family = shop.data / name, CONFIGS[name].family
        facts = train_image_text_model(name, folder, shop.work, seed=shop.seed)
        embedder = load_embedder(f"open_clip:local-dir:{folder}" if family == "open_clip" else f"hf:{folder}")
        measured = measure_embedder(embedder, shop.work)
        write_card(folder, {**facts, "held_out": measured}, family)
        print(f"{name}: on held-out scenes, in percent: {measured}")

    return BuildStep(
        make,
        (f"{name}/{weights}", f"{name}/quality.json"),
        f"train the stand-in {name} on scenes and what is said of them",
    )


def train_captioner(folders: BuildFolders) -> None:
    """The stand-in of the image captioners, a BLIP, with its quality and its card."""
    from milan.diorama_build.captioner_quality import measure_captioner, write_caption_card
    from milan.diorama_build.captioner_training import train_captioner
    from milan.pretrained.image_captioner import load_image_captioner

    folder = folders.data / "blip"
    known = train_captioner(folder, folders.work, seed=folders.seed)
    measured = measure_captioner(load_image_captioner(f"hf:{folder}", batch_size=50))
    write_caption_card(folder, {**known, "held_out": measured})
    print(f"blip: on held-out scenes, in percent: {measured}")


def measure_painter(folders: BuildFolders) -> None:
    """What the classifiers make of the exact painter's pictures; writes ``painter/quality.json``."""
    from milan.diorama.networks import normalize_images
    from milan.diorama_build.captioner_quality import measure_painter
    from milan.pretrained.painter import load_painter

    def judge(world: str) -> "Callable[[Tensor], Tensor]":
        network = folders.target(f"resnet-{world}").model.eval().requires_grad_(False)
        return lambda pictures: network(normalize_images(pictures))

    measured = measure_painter(load_painter(), {world: judge(world) for world in ("objects", "scenes")})
    facts = {"painter": "diorama", "judges": ["resnet-objects", "resnet-scenes"], "recognised in percent": measured}
    (folders.data / "painter").mkdir(parents=True, exist_ok=True)
    with atomic_write(folders.data / "painter" / "quality.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"painter: recognised, in percent: {measured}")


def measure_agreement(folders: BuildFolders) -> None:
    """Measures how far the annotators agree with each other and how true what they say is, and what their words are
    like.

    Writes ``annotations/agreement.json`` (with what Tables 4 and 5 of MILAN show) and ``annotations/corpus.md`` for all
    annotated networks.
    """
    from milan.dissection.milannotations import read_unit_annotations
    from milan.scores.corpus_statistics import compute_corpus_statistics, format_corpus_table

    home = folders.data / "annotations"
    said = {mark.parent.name: read_unit_annotations(mark.parent) for mark in sorted(home.glob(f"*/{DRAWING_FILE}"))}
    words = {network: _order_layers(network, compute_corpus_statistics(texts)) for network, texts in said.items()}
    everything = [
        (Unit(network, number), texts) for network, each in said.items() for number, texts in enumerate(each.values())
    ]
    words["all"] = {"total": compute_corpus_statistics(dict(everything))["total"]}
    by_network = {
        network: {**_measure_network_agreement(network, texts, folders), "corpus": _to_plain(words[network])}
        for network, texts in said.items()
    }
    facts = {"annotators": "simulated", "networks": by_network, "all": _to_plain(words["all"])["total"]}
    with atomic_write(home / AGREEMENT_FILE) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    with atomic_write(home / CORPUS_FILE) as path:
        path.write_text(
            "What simulated annotators say, in numbers (columns as in MILAN's Table 5)\n\n" + format_corpus_table(words)
        )
    print(json.dumps(facts["all"]))


def _order_layers(network: str, words: "dict[str, CorpusStatistics]") -> "dict[str, CorpusStatistics]":
    """Layers from the picture inwards, where the network's are known, and their total at the end."""
    from milan.diorama.networks import LAYERS

    known = [layer for layer in LAYERS.get(network, []) if layer in words]
    return {layer: words[layer] for layer in dict.fromkeys([*known, *words])}


def _to_plain(words: "dict[str, CorpusStatistics]") -> dict[str, dict[str, float]]:
    return {layer: asdict(each) for layer, each in words.items()}


def _measure_network_agreement(
    network: str, annotations: Mapping[Unit, Sequence[str]], folders: BuildFolders
) -> dict[str, object]:
    from milan.scores.truth_score import Truth

    truths: dict[str, list[float]] = {"of each annotator": [], "of shuffled descriptions": []}
    for layer, dissection in folders.dissections(network).items():
        truth = Truth.measure(dissection, folders.target(network), folders.work)
        units = [unit for unit in annotations if unit.layer == layer]
        others = [units[i] for i in np.random.default_rng(folders.seed).permutation(len(units))]
        for unit, other in zip(units, others, strict=True):
            truths["of each annotator"] += [truth.score(unit, text) for text in annotations[unit]]
            truths["of shuffled descriptions"] += [truth.score(unit, text) for text in annotations[other]]
    return {"units": len(annotations), "descriptions": sum(map(len, annotations.values())),
        **compute_agreement(annotations),
            "truth score": {who: round(float(np.nanmean(scores)), 4) for who, scores in truths.items()}}  # fmt: skip


def compute_agreement(annotations: Mapping[Unit, Sequence[str]]) -> dict[str, float]:
    """How alike the texts of each unit are: corpus BLEU and mean ROUGE-L (0..100) of each annotator's against those of
    the others.

    Units with fewer than two texts are left out.
    """
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    several = [texts for texts in annotations.values() if len(texts) > 1]
    ones = [text for texts in several for text in texts]
    rests = [[other for j, other in enumerate(texts) if j != i] for texts in several for i in range(len(texts))]
    deep = max(map(len, rests))
    references = [
        [rest[min(i, len(rest) - 1)] for rest in rests] for i in range(deep)
    ]  # a shorter row's last text is said twice
    scorer = RougeScorer(["rougeL"])
    rouge = [
        max(scorer.score(other, one)["rougeL"].fmeasure for other in rest)
        for one, rest in zip(ones, rests, strict=True)
    ]
    distinct = len(set(ones))
    return {"bleu": round(sacrebleu.corpus_bleu(ones, references).score, 2),
        "rouge-l": round(100 * sum(rouge) / len(rouge), 2),
            "distinct descriptions": distinct, "mean words": round(sum(len(one.split()) for one in ones) / len(ones),
            2)}  # fmt: skip


def train_segmenter(folders: BuildFolders) -> None:
    from milan.diorama_build.segmenter_training import train_scene_segmenter

    measured = train_scene_segmenter(folders.data, folders.work, seed=folders.seed)
    print(f"segmenter: mean IoU of each kind of label on held-out scenes: {measured}")


def make_planted_step(name: str, needed: str) -> BuildStep:
    def plant(folders: BuildFolders) -> None:
        from milan.diorama_build.planted_truth import build_planted

        measured = build_planted(folders.data, folders.work, folders.seed, name)
        print(f"{name}: mean IoU of each kind of unit: {measured}")

    files = (f"networks/{name}.safetensors", f"networks/{name}.json")
    return BuildStep(plant, files, f"plant the known units of {name}, and measure them", (needed,))


ANNOTATED_NETWORKS = (*CLASSIFIERS, *GENERATORS, DINO)  # the seven of MILANNOTATIONS in miniature

BUILD_STEPS: dict[str, BuildStep] = {
    DINO: BuildStep(
        train_dino,
        (f"networks/{DINO}.safetensors", f"networks/{DINO}.json"),
        "train the transformer that teaches itself, and measure it",
    ),
    **{name: make_network_step(name) for name in ("encoder", *CLASSIFIERS, "resnet-spurious", "resnet-blurred")},
    "segmenter": BuildStep(
        train_segmenter,
        ("segmenter/model.safetensors", "segmenter/config.json"),
        "train the segmenter on pixel labels",
        ("encoder",),
    ),
    "planted": make_planted_step("planted", "segmenter"),
    "planted-2": make_planted_step("planted-2", "planted"),
    **{name: make_generator_step(name) for name in GENERATORS},
    **{f"annotations-{name}": make_annotation_step(name) for name in ANNOTATED_NETWORKS},
    "agreement": BuildStep(
        measure_agreement,
        (f"annotations/{AGREEMENT_FILE}", f"annotations/{CORPUS_FILE}"),
        "measure how far the simulated annotators agree, how true they are, and what their words are like",
        ("segmenter", *(f"annotations-{name}" for name in ANNOTATED_NETWORKS)),
    ),
    **{name: make_model_step(name) for name in ("captioner", "prior")},
    **{name: make_stand_in_step(name) for name in ("clip", "siglip-small", "siglip-large")},
    "blip": BuildStep(
        train_captioner, ("blip/model.safetensors", "blip/quality.json"), "train the stand-in of the image captioners"
    ),
    "painter": BuildStep(
        measure_painter,
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

    What each took is kept in ``built.json``, and what all did if they are made in one go. If a part fails, those that
    do not need it are made all the same.

    Args:
        only: these parts, also if they are there already.
        out: where to; the data/diorama of this installation unless given.
        work: where drawn scenes, dissections and logs are kept; a folder in the cache unless given.
        seed: of the training and of the annotators.
        again: make all parts anew.
        jobs: how many parts are made side by side, each in a process of its own; as many as there are processors unless
            given.

    Raises:
        UnknownName: a part that there is not.
        NotBuilt: some parts could not be made.
    """
    unknown = [name for name in only or [] if name not in BUILD_STEPS]
    if unknown:
        raise UnknownName("part", unknown[0], BUILD_STEPS, "one of: " + ", ".join(BUILD_STEPS))
    if jobs is not None and jobs < 1:
        raise BadInput(
            f"--jobs {jobs}: at least one part is made at a time; leave it out for as many as there are processors"
        )
    data = Path(out) if out else locate_packaged_data("data") / "diorama"
    shop = BuildFolders(data, Path(work) if work else cache_root() / "diorama", seed)
    wanted = [
        name for name, part in BUILD_STEPS.items() if (name in only if only else again or not _is_built(part, data))
    ]
    if len(wanted) == 1:
        run_step(wanted[0], shop)
        return
    options = ["--out", str(data), "--work", str(shop.work), "--seed", str(seed)]
    command = [sys.executable, "-m", "milan.diorama", "build", *options, "--only"]

    def make(name: str) -> bool:
        return run_subprocess(name, [*command, name], shop.work / "parts" / name / "log.txt")

    started, jobs = monotonic(), jobs or os.cpu_count() or 1
    missing = run_in_parallel({name: BUILD_STEPS[name].requires for name in wanted}, jobs, make)
    if missing:
        why = ", ".join(f"{name} ({reason})" for name, reason in missing.items())
        raise BuildFailed(
            f"{len(missing)} of {len(wanted)} parts were not built: {why}; run the same command again to make what is"
            " missing"
        )
    if len(wanted) == len(BUILD_STEPS):
        record_total_time(data / TIMES_FILE, monotonic() - started, jobs, turn=shop.work / "parts")


def _is_built(part: BuildStep, data: Path) -> bool:
    return all((data / file).is_file() for file in part.outputs)


def run_step(name: str, folders: BuildFolders) -> None:
    """Makes a part in this process, and keeps what it took."""
    part, room = BUILD_STEPS[name], folders.work / "parts"
    with lock_folder(room / name):  # two builds can make other parts side by side
        print(f"{name}: {part.description}", flush=True)
        took = measure_time(lambda: part.run(folders))
        record_time(folders.data / TIMES_FILE, name, took, turn=room)
        print(f"{name}: done in {took.seconds:.0f} s ({took.cpu:.0f} s of processors)", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """``python -m milan.diorama build``: reads the options, builds, and gives the exit status."""
    text = "Makes Diorama's networks and annotations anew. Parts: " + ", ".join(BUILD_STEPS)
    return program("python -m milan.diorama build", text, build, words, "build")


if __name__ == "__main__":
    sys.exit(main())
