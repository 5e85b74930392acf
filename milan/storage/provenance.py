"""Provenance: what a result was made from, and which of its sources are simulated."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from milan.storage.packaged_data import locate_packaged_data

Sources = Mapping[str, str]
"""Specs of what was used, by role (target, probe, captioner, ...); several of one role are joined by commas."""

DIORAMA, PHRASES = "diorama", "phrases"
LANGUAGE_MODEL = "language model"
# The role under which sources say whose words descriptions are, and the roles that are no part of a describer.
WORDS, TARGET_ROLES = "words", ("target", "probe", "weights of the target")
SIMULATED = (
    "Simulated: this result uses Diorama, a small world that the package generates itself, for {}. Its images are "
    "drawn by a program, its models are trained on them, and its annotators are programs, not people."
)
PHRASES_LIMIT = "it names only words that it was given, and never what they have in common."
COUNTED = f"A program that counts phrases took the place of {{}}: {PHRASES_LIMIT}"
FAMILIES = ("harvest", "latents", "hf", "open_clip", "local-dir", "segmenter")


def simulated_note(sources: Sources) -> str:
    """Return the note that a result must show if Diorama or the phrase counter was used; empty if neither was.

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
    """Return whether a spec, or one of several joined by commas, names a part of Diorama or a copy of one.

    >>> [is_simulated(spec) for spec in ("diorama:objects@judge", "nouns.txt, harvest:diorama", "hf:me/diorama")]
    [True, True, False]
    """
    return any(_is_one(part.strip()) for part in spec.split(","))


def joined(owners: Mapping[str, Sources]) -> dict[str, str]:
    """Return the sources of several owners as one mapping, by "ROLE of OWNER", or by role where owners agree.

    >>> joined({"milan": {"probe": "photos", "prior": "diorama"}, "sand": {"probe": "photos"}, "a table": {}})
    {'probe': 'photos', 'prior of milan': 'diorama'}
    """
    texts: dict[str, str] = {}
    for owner, sources in owners.items():
        for role, spec in sources.items():
            specs = [other[role] for other in owners.values() if role in other]
            shared = set(specs) == {spec} and (len(specs) > 1 or len(owners) == 1)
            texts[role if shared else f"{role} of {owner}"] = spec
    return texts


def united(several: Iterable[Sources]) -> dict[str, str]:
    """Return several sources as one mapping without owners: the distinct specs of each role, joined by commas.

    >>> united([{"probe": "photos", "prior": ""}, {"probe": "cars", "prior": "diorama"}])
    {'probe': 'photos, cars', 'prior': 'diorama'}
    """
    values: dict[str, dict[str, None]] = {}
    for sources in several:
        for role, spec in sources.items():
            values.setdefault(role, {}).update({spec: None} if spec else {})
    return {role: ", ".join(specs) for role, specs in values.items()}


def _is_one(spec: str) -> bool:
    # Models state what they were trained on in this form.
    if spec.startswith("Diorama ("):
        return True
    family, colon, rest = spec.partition(":")
    if family == DIORAMA:
        return True
    return _is_one(rest) if colon and family in FAMILIES else _is_stand_in(Path(spec).expanduser())


def _is_stand_in(path: Path) -> bool:
    """Return whether a path is part of Diorama, or a copy of a folder with a stand-in."""
    if not path.exists():
        return False
    if path.resolve().is_relative_to(locate_packaged_data("data/diorama").resolve()):
        return True
    try:
        return "stand-in" in json.loads((path / "quality.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _listed(roles: list[str]) -> str:
    """Return roles as an enumeration in words."""
    named = [f"the {role}" for role in roles]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
