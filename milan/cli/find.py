"""``python -m milan.cli.find "a text" RUN...``: units of described networks by meaning, or by a picture."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from milan.console.command_line import program, terminal
from milan.console.text_cleaning import escape_markup

if TYPE_CHECKING:
    from milan.results.search import FoundUnit

PROGRAM = "python -m milan.cli.find"
WIDTH = 160  # columns of what is printed where there is no terminal


def run_find(
    runs: list[str],
    text: str = "",
    image: Path | None = None,
    count: int = 20,
    embedder: str = "",
    sentences: str = "",
    out: Path = Path("runs/find"),
    device: str = "cpu",
) -> None:
    """Find the units that a text describes best, or that a picture activates unusually strongly.

    Args:
        runs: Folders that describe.py wrote.
        text: What the units should be about, such as "a hand holding something".
        image: A picture file, in place of a text.
        count: The number of units to find.
        embedder: The image-text model that compares the text with exemplars, as open_clip:ViT-B-16/openai. By default
            Diorama's for runs on Diorama's images; without a model only descriptions are searched.
        sentences: The sentence encoder that compares the text with descriptions, as
            hf:sentence-transformers/all-mpnet-base-v2. By default the text side of the image-text model.
        out: The folder to write the table and the page to.
        device: The device on which models run, such as cpu or cuda.
    """
    from milan.errors import BadInput
    from milan.pretrained.sentence_encoder import load_sentence_encoder
    from milan.results.catalogue import read_catalogue
    from milan.results.image_search import find_by_image
    from milan.results.search import SearchedRun, choose_embedder, find_by_text
    from milan.results.search_page import write_search

    if bool(text) == (image is not None):
        raise BadInput(f'give either a text or --image FILE, as in: {PROGRAM} "red things" RUN')
    # A folder that is given twice is searched once.
    folders = list({Path(folder).resolve(): folder for folder in reversed(runs)}.values())[::-1]
    names = [Path(folder).resolve().name for folder in folders]
    searched = []
    for folder, name in zip(folders, names, strict=True):
        catalogue = read_catalogue(folder)
        shown = name if names.count(name) == 1 else folder
        searched.append(SearchedRun(shown, catalogue.texts, catalogue.dissections))
    if image is not None:
        found = find_by_image(image, searched, count=count)
    else:
        encoder = load_sentence_encoder(sentences, device=device) if sentences else None
        model = choose_embedder(searched, embedder, device)
        found = find_by_text(text, searched, embedder=model, sentences=encoder, count=count)
    write_search(text or str(image), found, searched, out)
    print_found(found, out)


def print_found(found: "Sequence[FoundUnit]", out: Path) -> None:
    """Print a table of found units, and where the files are."""
    from rich.table import Table

    console = terminal(WIDTH)
    from milan.results.search_page import format_number

    parts = list(found[0].parts) if found else []
    table = Table("run", "unit", "score", *parts, "description", box=None, pad_edge=False, header_style="dim")
    for each in found:
        numbers = map(format_number, (each.score, *(each.parts[name] for name in parts)))
        table.add_row(escape_markup(each.run), escape_markup(str(each.unit)), *numbers, escape_markup(each.text))
    console.print(table)
    console.print()
    for name, file in (("table", "found.csv"), ("page", "page/index.html")):
        console.print(f"{name:5}  {escape_markup(f'{out}/{file}')}", soft_wrap=True)


def main(args: Sequence[str] | None = None) -> int:
    """Read the options, run the program, and return its exit status."""
    words = list(sys.argv[1:] if args is None else args)
    options = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    places, rest = words[:options], words[options:]
    by_image = any(word == "--image" or word.startswith("--image=") for word in rest)
    if places and not by_image:
        rest = [f"--text={places.pop(0)}", *rest]
    if places:
        rest = ["--runs", *places, *rest]
    text = 'Find units of described networks by meaning ("TEXT" RUN...) or by a picture (RUN... --image FILE).'
    return program(PROGRAM, text, run_find, rest)


if __name__ == "__main__":
    sys.exit(main())
