"""Builds the contents of ``data/diorama``: networks, simulated annotations, and the models trained on them."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from milan.console.command_line import program
from milan.diorama_build.annotator_agreement import AGREEMENT_FILE, CORPUS_FILE, measure_agreement
from milan.diorama_build.build_folders import ANNOTATION_FACTS_FILE, BuildFolders
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

if TYPE_CHECKING:
    from torch import Tensor

GENERATORS = ("generator-objects", "generator-scenes")
DINO = "dino-objects"
CLASSIFIERS = ("resnet-objects", "resnet-scenes", "alexnet-objects", "alexnet-scenes")
ANNOTATED_NETWORKS = (*CLASSIFIERS, *GENERATORS, DINO)  # the seven of MILANNOTATIONS in miniature
TIMES_FILE = "built.json"


@dataclass(frozen=True)
class BuildStep:
    """A part of Diorama's data.

    Attributes:
        run: builds the part.
        outputs: paths in ``data`` of files that exist once the part is built.
        description: what the part does, for messages.
        requires: names of the parts that it needs.
    """

    run: Callable[[BuildFolders], None]
    outputs: tuple[str, ...]
    description: str
    requires: tuple[str, ...] = ()


def make_network_step(name: str) -> BuildStep:
    """Return the step that trains a classifier and measures it on held-out scenes."""

    def run(folders: BuildFolders) -> None:
        from milan.diorama_build.classifier_training import train_network

        measured = train_network(name, folders.data / "networks", folders.work, seed=folders.seed)
        print(f"{name}: accuracy on held-out scenes in percent: {measured}")

    return BuildStep(
        run,
        (f"networks/{name}.safetensors", f"networks/{name}.json"),
        f"train {name} and measure it on held-out scenes",
    )


def make_generator_step(name: str) -> BuildStep:
    """Return the step that trains a generator; its images are classified by the networks that it needs."""

    def run(folders: BuildFolders) -> None:
        from milan.diorama_build.generator_training import train_generator

        measured = train_generator(name.partition("-")[2], folders.data / "networks", folders.work, seed=folders.seed)
        print(f"{name}: images that the classifier assigns to their class, in percent: {measured}")

    files = (f"networks/{name}.safetensors", f"networks/{name}.json")
    return BuildStep(
        run, files, f"train {name} and measure its images", ("encoder", f"resnet-{name.partition('-')[2]}")
    )


def train_dino(folders: BuildFolders) -> None:
    """Train the self-supervised transformer and print its accuracy by nearest neighbours on held-out scenes."""
    from milan.diorama_build.dino_training import train_dino

    measured = train_dino(folders.data / "networks", folders.work, seed=folders.seed)
    print(f"{DINO}: nearest-neighbour accuracy on held-out scenes in percent: {measured}")


def make_annotation_step(name: str) -> BuildStep:
    """Return the step that has a network's active units annotated by the simulated annotators."""

    def run(folders: BuildFolders) -> None:
        from milan.describers.annotators import simulate_annotations
        from milan.dissection.milannotations import export_compact

        for layer, dissection in folders.dissections(name).items():
            texts = {unit: simulate_annotations(dissection, unit, folders.seed) for unit in dissection.active_units()}
            export_compact(dissection, folders.data / "annotations" / name, texts)
            print(f"{name} {layer}: {len(texts)} units annotated")
        with atomic_write(folders.data / "annotations" / name / ANNOTATION_FACTS_FILE) as path:
            path.write_text(
                json.dumps({"annotators": "simulated", "network": name, "seed": folders.seed}, indent=1) + "\n"
            )

    return BuildStep(
        run,
        (f"annotations/{name}/{ANNOTATION_FACTS_FILE}",),
        f"dissect {name} and annotate its units by three simulated annotators",
        (name,),
    )


def make_model_step(name: str) -> BuildStep:
    """Return the step that trains MILAN's captioner or prior by ``train.py fit``; weights are saved as float16."""

    def run(folders: BuildFolders) -> None:
        from milan.cli.train import train
        from milan.models import Captioner, Prior

        out = folders.work / "training" / f"{name}-{folders.seed}"
        options = ["--data.seed", str(folders.seed), "--seed_everything", str(folders.seed), "--out", str(out)]
        if folders.data != locate_packaged_data("data") / "diorama":
            # The configuration's "diorama" is the package's own folder.
            options += [
                "--data.folders",
                json.dumps([str(folders.data / "annotations" / network) for network in sorted(CLASSIFIERS)]),
            ]
            if name == "captioner":
                options += ["--data.encoder_weights", str(folders.data / "networks" / "encoder.safetensors")]
        train(["fit", "--config", str(locate_packaged_data(f"configs/{name}.yaml")), *options])
        model = Captioner.from_pretrained(out) if name == "captioner" else Prior.from_pretrained(out)
        model.save_pretrained(folders.data / name, half=True)

    needs = ("encoder", *(f"annotations-{network}" for network in CLASSIFIERS))
    return BuildStep(
        run, (f"{name}/model.safetensors", f"{name}/config.json"), f"train MILAN's {name} on the annotations", needs
    )


def make_stand_in_step(name: str) -> BuildStep:
    """Return the step that trains and measures a stand-in for a large image-text model, and writes its model card."""
    weights = "open_clip_model.safetensors" if name == "clip" else "model.safetensors"

    def run(folders: BuildFolders) -> None:
        from milan.diorama_build.image_text_configs import CONFIGS
        from milan.diorama_build.image_text_quality import measure_embedder, write_card
        from milan.diorama_build.image_text_training import train_image_text_model
        from milan.pretrained.embedder import load_embedder

        folder, family = folders.data / name, CONFIGS[name].family
        facts = train_image_text_model(name, folder, folders.work, seed=folders.seed)
        embedder = load_embedder(f"open_clip:local-dir:{folder}" if family == "open_clip" else f"hf:{folder}")
        measured = measure_embedder(embedder, folders.work)
        write_card(folder, {**facts, "held_out": measured}, family)
        print(f"{name}: quality on held-out scenes in percent: {measured}")

    return BuildStep(
        run,
        (f"{name}/{weights}", f"{name}/quality.json"),
        f"train the stand-in {name} on scenes and sentences about them",
    )


def train_captioner(folders: BuildFolders) -> None:
    """Train and measure the stand-in for image captioners, a BLIP, and write its model card."""
    from milan.diorama_build.captioner_quality import measure_captioner, write_caption_card
    from milan.diorama_build.captioner_training import train_captioner
    from milan.pretrained.image_captioner import load_image_captioner

    folder = folders.data / "blip"
    facts = train_captioner(folder, folders.work, seed=folders.seed)
    measured = measure_captioner(load_image_captioner(f"hf:{folder}", batch_size=50))
    write_caption_card(folder, {**facts, "held_out": measured})
    print(f"blip: quality on held-out scenes in percent: {measured}")


def measure_painter(folders: BuildFolders) -> None:
    """Measure how many of the exact painter's images the classifiers recognise; write ``painter/quality.json``."""
    from milan.diorama.scene_classifiers import normalize_images
    from milan.diorama_build.captioner_quality import measure_painter
    from milan.pretrained.painter import load_painter

    def load_classifier(world: str) -> "Callable[[Tensor], Tensor]":
        network = folders.target(f"resnet-{world}").model.eval().requires_grad_(False)
        return lambda images: network(normalize_images(images))

    measured = measure_painter(load_painter(), {world: load_classifier(world) for world in ("objects", "scenes")})
    facts = {"painter": "diorama", "judges": ["resnet-objects", "resnet-scenes"], "recognised in percent": measured}
    (folders.data / "painter").mkdir(parents=True, exist_ok=True)
    with atomic_write(folders.data / "painter" / "quality.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"painter: images recognised, in percent: {measured}")


def train_segmenter(folders: BuildFolders) -> None:
    """Train the segmenter and print its mean IoU of each kind of label on held-out scenes."""
    from milan.diorama_build.segmenter_training import train_scene_segmenter

    measured = train_scene_segmenter(folders.data, folders.work, seed=folders.seed)
    print(f"segmenter: mean IoU of each kind of label on held-out scenes: {measured}")


def make_planted_step(name: str, needed: str) -> BuildStep:
    """Return the step that builds a planted network and prints the mean IoU of each kind of its units."""

    def plant(folders: BuildFolders) -> None:
        from milan.diorama_build.planted_truth import build_planted

        measured = build_planted(folders.data, folders.work, folders.seed, name)
        print(f"{name}: mean IoU of each kind of unit: {measured}")

    files = (f"networks/{name}.safetensors", f"networks/{name}.json")
    return BuildStep(plant, files, f"plant the known units of {name}, and measure them", (needed,))


# Each part comes after those that it needs.
BUILD_STEPS: dict[str, BuildStep] = {
    DINO: BuildStep(
        train_dino,
        (f"networks/{DINO}.safetensors", f"networks/{DINO}.json"),
        "train the self-supervised transformer and measure it",
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
        "measure the agreement, truth and vocabulary of the simulated annotators",
        ("segmenter", *(f"annotations-{name}" for name in ANNOTATED_NETWORKS)),
    ),
    **{name: make_model_step(name) for name in ("captioner", "prior")},
    **{name: make_stand_in_step(name) for name in ("clip", "siglip-small", "siglip-large")},
    "blip": BuildStep(
        train_captioner, ("blip/model.safetensors", "blip/quality.json"), "train the stand-in for image captioners"
    ),
    "painter": BuildStep(
        measure_painter,
        ("painter/quality.json",),
        "measure how many of the exact painter's images classifiers recognise",
        ("resnet-objects", "resnet-scenes"),
    ),
}


def build(
    only: list[str] | None = None,
    out: str | None = None,
    work: str | None = None,
    seed: int = 0,
    again: bool = False,
    jobs: int | None = None,
) -> None:
    """Build the missing parts of Diorama's data, each completely or not at all, on one thread per part.

    The time of each part, and of a build of all parts, is written to ``built.json``. If a part fails, the parts that do
    not need it are still built.

    Args:
        only: names of the parts to build, also if they exist.
        out: output folder; by default ``data/diorama`` of this installation.
        work: folder of rendered scenes, dissections and logs; by default a folder in the cache.
        seed: random seed of training and annotation.
        again: build all parts, also those that exist.
        jobs: number of parts built at the same time, each in its own process; by default the number of processors.

    Raises:
        UnknownName: there is no part of that name.
        BuildFailed: some parts could not be built.
    """
    unknown = [name for name in only or [] if name not in BUILD_STEPS]
    if unknown:
        raise UnknownName("part", unknown[0], BUILD_STEPS, "one of: " + ", ".join(BUILD_STEPS))
    if jobs is not None and jobs < 1:
        raise BadInput(f"--jobs {jobs}: at least one job is needed; leave it out for one per processor")
    data = Path(out) if out else locate_packaged_data("data") / "diorama"
    folders = BuildFolders(data, Path(work) if work else cache_root() / "diorama", seed)
    due = [name for name, step in BUILD_STEPS.items() if (name in only if only else again or not _is_built(step, data))]
    if len(due) == 1:
        run_step(due[0], folders)
        return
    started, jobs = monotonic(), jobs or os.cpu_count() or 1
    missing = _run_steps(due, folders, jobs)
    if missing:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in missing.items())
        raise BuildFailed(
            f"{len(missing)} of {len(due)} parts were not built: {reasons}; rerun the same command to build them"
        )
    if len(due) == len(BUILD_STEPS):
        record_total_time(data / TIMES_FILE, monotonic() - started, jobs, lock=folders.work / "parts")


def _is_built(step: BuildStep, data: Path) -> bool:
    return all((data / file).is_file() for file in step.outputs)


def _run_steps(names: Sequence[str], folders: BuildFolders, jobs: int) -> dict[str, str]:
    """Run steps in processes of their own; return why each step that was not built was not."""
    options = ["--out", str(folders.data), "--work", str(folders.work), "--seed", str(folders.seed)]
    command = [sys.executable, "-m", "milan.diorama", "build", *options, "--only"]

    def run(name: str) -> bool:
        return run_subprocess(name, [*command, name], folders.work / "parts" / name / "log.txt")

    return run_in_parallel({name: BUILD_STEPS[name].requires for name in names}, jobs, run)


def run_step(name: str, folders: BuildFolders) -> None:
    """Build a part in this process and record its time."""
    step, parts = BUILD_STEPS[name], folders.work / "parts"
    # The lock is per part: two builds can build different parts at the same time.
    with lock_folder(parts / name):
        print(f"{name}: {step.description}", flush=True)
        took = measure_time(lambda: step.run(folders))
        record_time(folders.data / TIMES_FILE, name, took, lock=parts)
        print(f"{name}: done in {took.seconds:.0f} s ({took.cpu:.0f} s of CPU time)", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run ``python -m milan.diorama build`` with these arguments and return the exit status."""
    text = "Build Diorama's networks, annotations and models. Parts: " + ", ".join(BUILD_STEPS)
    return program("python -m milan.diorama build", text, build, words, "build")


if __name__ == "__main__":
    sys.exit(main())
