"""What a result was made from, and what of that is simulated: the one place that decides which results say so."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from milan.storage.packaged_data import locate_packaged_data

Sources = Mapping[str, str]
"""By role (target, probe, captioner, ...) the specs of what was used, several of one role joined by commas."""

DIORAMA, PHRASES = "diorama", "phrases"
LANGUAGE_MODEL = "language model"
# The role under which sources say whose words descriptions are, and the roles that are no part of a describer.
WORDS, TARGET_ROLES = "words", ("target", "probe", "weights of the target")
SIMULATED = (
    "Simulated: this result uses Diorama, a small world that the package generates itself, for {}. Its images are "
    "drawn by a program, its models are trained on them, and its annotators are programs, not people."
)
NAMES = "it names only words that it was given, and never what they have in common."
COUNTED = f"In place of {{}} a program counted phrases: {NAMES}"
FAMILIES = ("harvest", "latents", "hf", "open_clip", "local-dir", "segmenter")


def simulated_note(sources: Sources) -> str:
    """Return what a result must say if Diorama, or a counter of phrases, had a part in it; empty if neither had.

    >>> simulated_note({"target": "torchvision:alexnet", "probe": "photos", "embedder": "diorama:siglip-small"})[:94]
    'Simulated: this result uses Diorama, a small world that the package generates itself, for the '
    >>> simulated_note({"target": "torchvision:alexnet", "probe": "photos/diorama"})
    ''
    """
    simulated = [role for role, spec in sources.items() if is_simulated(spec)]
    counted = [role for role, spec in sources.items() if spec == PHRASES]
    notes = [text.format(_listed(roles)) for text, roles in ((SIMULATED, simulated), (COUNTED, counted)) if roles]
    return " ".join(notes)


def sources_note(sources: Sources) -> str:
    """Return in one line which models a result comes from, and whose words descriptions are.

    >>> sources_note({"target": "a", "captioner": "released:base", "words": "the annotators"})
    'words of the annotators; captioner released:base'
    """
    words = [f"words of {spec}" for role, spec in sources.items() if role.partition(" of ")[0] == WORDS and spec]
    models = [f"{role} {spec}" for role, spec in sources.items() if role not in TARGET_ROLES and WORDS not in role]
    return "; ".join([*words, *models])


def is_simulated(spec: str) -> bool:
    """Whether a spec, or one of several joined by commas, names a part of Diorama or a folder with a copy of one.

    >>> [is_simulated(spec) for spec in ("diorama:objects@judge", "nouns.txt, harvest:diorama", "hf:me/diorama")]
    [True, True, False]
    """
    return any(_is_one(part.strip()) for part in spec.split(","))


def joined(owners: Mapping[str, Sources]) -> dict[str, str]:
    """Return the sources of several owners as one mapping: as "ROLE of OWNER", or the bare role where several agree.

    >>> joined({"milan": {"probe": "photos", "prior": "diorama"}, "sand": {"probe": "photos"}, "a table": {}})
    {'probe': 'photos', 'prior of milan': 'diorama'}
    """
    found: dict[str, str] = {}
    for owner, sources in owners.items():
        for role, spec in sources.items():
            specs = [other[role] for other in owners.values() if role in other]
            shared = set(specs) == {spec} and (len(specs) > 1 or len(owners) == 1)
            found[role if shared else f"{role} of {owner}"] = spec
    return found


def united(several: Iterable[Sources]) -> dict[str, str]:
    """Return several sources as one that names no owner: the specs of one role, each once, joined by commas.

    >>> united([{"probe": "photos", "prior": ""}, {"probe": "cars", "prior": "diorama"}])
    {'probe': 'photos, cars', 'prior': 'diorama'}
    """
    found: dict[str, dict[str, None]] = {}
    for sources in several:
        for role, spec in sources.items():
            found.setdefault(role, {}).update({spec: None} if spec else {})
    return {role: ", ".join(specs) for role, specs in found.items()}


def _is_one(spec: str) -> bool:
    if spec.startswith("Diorama ("):  # as models say what they were trained on
        return True
    family, colon, rest = spec.partition(":")
    if family == DIORAMA:
        return True
    return _is_one(rest) if colon and family in FAMILIES else _is_stand_in(Path(spec).expanduser())


def _is_stand_in(path: Path) -> bool:
    """Whether a file or folder is one of Diorama's, or a copy of a folder that holds a stand-in."""
    if not path.exists():
        return False
    if path.resolve().is_relative_to(locate_packaged_data("data/diorama").resolve()):
        return True
    try:
        return "stand-in" in json.loads((path / "quality.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _listed(roles: list[str]) -> str:
    """Roles as a list in words."""
    named = [f"the {role}" for role in roles]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
