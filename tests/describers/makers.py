"""How each describer of the package is made for the toy world, with tiny models where it needs models.

A new describer adds its function: it is given a folder, writes there what the describer needs unless it is there
already (it is called several times), and gives a fresh describer.
"""

from collections.abc import Callable
from pathlib import Path

from milan.describers import Describer, load_describer
from milan.describers._shared.contract import UNITS
from milan.describers._shared.describer_specs import resolve_settings
from tests.describers.colour_embedder import (
    ColourEmbedder as ColourEmbedder,
)  # for the describers that have an embedder

COLOURS = f"{Path(__file__).with_name('colour_embedder.py')}:ColourEmbedder"


def load_simulated(name: str, **settings: object) -> Describer:
    """A describer with the stand-ins that are used where target or probe is Diorama's."""
    return load_describer(name, **resolve_settings(name, settings, ("diorama:", "diorama:")))


MAKERS: dict[str, Callable[[Path], Describer]] = {}


def makes(name: str) -> Callable[[Callable[[Path], Describer]], Callable[[Path], Describer]]:
    """Registers the function below as the one that makes the describer of that name."""

    def register(function: Callable[[Path], Describer]) -> Callable[[Path], Describer]:
        MAKERS[name] = function
        return function

    return register


@makes("milan")
def _milan(folder: Path) -> Describer:
    return load_simulated("milan", beam=5)


@makes("annotators")
def _annotators(folder: Path) -> Describer:
    """Three annotators of each unit of the toy world, and a layer that is not asked for."""
    file = folder / "annotations.csv"
    if not file.exists():
        texts = [
            f"{layer},{index},{text} number {index}"
            for layer in ("answers", "answers@sae")
            for index in range(7)
            for text in ("squares", "colored squares", "patches")
        ]
        file.write_text("\n".join(["layer,unit,summary", *texts, "other,0,nothing"]) + "\n")
    return load_simulated("annotators", source=str(file), who="agreed")


@makes("imported")
def _imported(folder: Path) -> Describer:
    file = folder / "table.csv"
    if not file.exists():
        layers = ("answers", "answers@sae")
        rows = [f"{layer},{index},squares number {index}\n" for layer in layers for index in range(7)]
        file.write_text("".join(["layer,unit,description\n", *rows]))
    return load_simulated("imported", table=str(file))


@makes("constant")
def _constant(folder: Path) -> Describer:
    return load_simulated("constant")


@makes("shuffled")
def _shuffled(folder: Path) -> Describer:
    _annotators(folder)
    return load_simulated("shuffled", options={"source": str(folder / "annotations.csv")})


@makes("random_concept")
def _random_concept(folder: Path) -> Describer:
    return load_simulated("random_concept")


@makes("linear_explanations")
def _linear_explanations(folder: Path) -> Describer:
    return load_simulated("linear_explanations", evidence="labels")


@makes("clip_dissect")
def _clip_dissect(folder: Path) -> Describer:
    return load_simulated("clip_dissect", embedder=COLOURS, pooling="max", batch_size=2)


SEGMENTER = f"segmenter:{Path(__file__).with_name('colour_segmenter.py')}:ColourSegmenter"


@makes("netdissect")
def _netdissect(folder: Path) -> Describer:
    return load_simulated("netdissect", labels=SEGMENTER)


@makes("compositional")
def _compositional(folder: Path) -> Describer:
    return load_simulated("compositional", labels=SEGMENTER)


@makes("sand")
def _sand(folder: Path) -> Describer:
    file = folder / "concepts.txt"
    if not file.exists():
        file.write_text("red\ngreen\nblue\nyellow\nmagenta\nnothing\n")
    return load_simulated("sand", embedder=COLOURS, concepts=str(file), prompts="plain")


@makes("vlm")
def _vlm(folder: Path) -> Describer:
    return load_describer("vlm", llm="diorama", embedder=COLOURS, activations=True)


PICTURED = str(Path(__file__).with_name("colour_captioner.py"))


def _classes(folder: Path) -> str:
    """Names of the toy network's answers."""
    file = folder / "classes.txt"
    if not file.exists():
        file.write_text("\n".join(UNITS) + "\n")
    return str(file)


@makes("caption_activation")
def _caption_activation(folder: Path) -> Describer:
    return load_simulated("caption_activation", captioner=f"{PICTURED}:ColourCaptioner")


@makes("weight_label")
def _weight_label(folder: Path) -> Describer:
    return load_simulated("weight_label", classes=_classes(folder), signs="both")


@makes("weight_clip")
def _weight_clip(folder: Path) -> Describer:
    return load_simulated("weight_clip", of="constant", classes=_classes(folder))


@makes("describe_and_dissect")
def _describe_and_dissect(folder: Path) -> Describer:
    return load_simulated(
        "describe_and_dissect",
        captioner=f"{PICTURED}:ColourCaptioner",
        painter=f"{PICTURED}:ColourPainter",
        embedder=COLOURS,
        pictures=2,
    )


@makes("best_concept")
def _best_concept(folder: Path) -> Describer:
    options = {"embedder": COLOURS, "pooling": "max"}
    return load_simulated(
        "best_concept",
        of="clip_dissect",
        options=options,
        painter=f"{PICTURED}:ColourPainter",
        embedder=COLOURS,
        pictures=2,
    )


@makes("several")
def _several(folder: Path) -> Describer:
    options = {"embedder": COLOURS, "pooling": "max"}
    return load_simulated("several", of="clip_dissect", options=options, embedder=COLOURS, exemplars=12)


@makes("best_of")
def _best_of(folder: Path) -> Describer:
    options = {"clip_dissect": {"embedder": COLOURS, "pooling": "max"}, "netdissect": {"labels": SEGMENTER}}
    return load_simulated(
        "best_of",
        describers=["clip_dissect", "netdissect"],
        options=options,
        simulator=COLOURS,
        concepts="",
        held_out="",
    )
