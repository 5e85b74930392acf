"""Which describers can run here: the models and the evidence that they need, and which of these are available."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from milan.concepts.presence import has_pixel_labels
from milan.describers import list_describers
from milan.describers._shared.base import Describer
from milan.describers._shared.weight_pairs import count_outputs
from milan.errors import BadInput, MissingEvidence
from milan.pretrained.published_models import MissingModel
from milan.probes import Probe
from milan.probes.class_labels import UNKNOWN
from milan.storage.hub_access import is_offline
from milan.targets.target import Target

WEIGHT_LABEL = "weight_label"
MIN_IMAGES_OF_CLASS = 3  # of fewer, linear_explanations drops every concept
PACKAGED_MILAN = (
    "To try MILAN with the models in the package, which know drawn scenes only: --describer milan"
    " --settings.captioner diorama --settings.prior diorama"
)


class DescriberChoice(NamedTuple):
    """A describer that can run, by its spec, and the evidence that it uses."""

    spec: str
    reason: str


def check_ready(describer: Describer, target: Target, probe: Probe) -> None:
    """Check that a describer has its models and its evidence, before anything is computed.

    Raises:
        MissingEvidence: something is missing. The text names each model with size, licence, source and place in the
            cache, and the describers that would work instead.
    """
    reasons = _format_missing(describer.find_missing_models())
    try:
        describer.check_evidence(target, probe)
    except (MissingEvidence, BadInput) as error:
        reasons.append(str(error))
    if reasons:
        choices = _format_choices(target, probe)
        raise MissingEvidence(f"{describer.name} cannot run here: {'; '.join(reasons)}. {choices}")


def _format_missing(models: Sequence[MissingModel]) -> list[str]:
    """Return each missing model once, after the reason why it is not downloaded."""
    files = list(dict.fromkeys(str(each) for each in models if each.cache or each.source))
    services = list(dict.fromkeys(str(each) for each in models if not (each.cache or each.source)))
    why = "this run is offline" if is_offline() else "their sources are out of reach"
    return [*services, *([f"not on this machine and not downloaded, since {why}: {'; '.join(files)}"] if files else [])]


def _format_choices(target: Target, probe: Probe) -> str:
    choices = [f"--describer {spec} ({reason})" for spec, reason in list_choices(target, probe)]
    if choices:
        return f"Without further models these would work: {', '.join(choices)}"
    return (
        "No describer works without further models here: that takes images in class folders, pixel labels, names of the"
        f" network's classes, or an endpoint in OPENAI_BASE_URL. {PACKAGED_MILAN}"
    )


def list_choices(target: Target, probe: Probe) -> Iterator[DescriberChoice]:
    """Yield the describers that need no model to be downloaded, with the evidence that they use."""
    if _has_endpoint():
        yield DescriberChoice("vlm", "an endpoint is given in OPENAI_BASE_URL")
    if has_pixel_labels(probe):
        yield DescriberChoice("netdissect", "the probe has pixel labels")
        yield DescriberChoice("compositional", "the probe has pixel labels")
    if has_class_labels(probe):
        yield DescriberChoice("linear_explanations:evidence=labels", "the probe has class labels")
    if (classes := _find_class_names(target, probe)) is not None:
        yield DescriberChoice(f"{WEIGHT_LABEL}:llm=phrases,classes={classes}", "the network's classes have names")


def choose_describer(target: Target, probe: Probe, load: Callable[[str], Describer]) -> DescriberChoice:
    """Return the best describer that can run: by an endpoint, an image-text model, pixel labels, or class labels.

    A describer that uses no image is never chosen.

    Args:
        target: the network.
        probe: the images.
        load: loads a describer by its spec.

    Raises:
        MissingEvidence: none can run.
    """
    if _has_endpoint():
        return DescriberChoice("vlm", "an endpoint is given in OPENAI_BASE_URL")
    missing = load("clip_dissect").find_missing_models()
    if not missing:
        return DescriberChoice("clip_dissect", "its image-text model and its concepts are here or can be downloaded")
    for choice in list_choices(target, probe):
        if not choice.spec.startswith(WEIGHT_LABEL):
            return choice
    reasons = "; ".join(_format_missing(missing))
    raise MissingEvidence(f"auto finds no describer that can run here: {reasons}. {_format_choices(target, probe)}")


def _has_endpoint() -> bool:
    return "vlm" in list_describers() and bool(os.environ.get("OPENAI_BASE_URL"))


def has_class_labels(probe: Probe) -> bool:
    """Return whether the class of each image is known, and at least one of several classes has enough images."""
    counts = Counter(probe.labels or [])
    return UNKNOWN not in counts and len(counts) > 1 and max(counts.values()) >= MIN_IMAGES_OF_CLASS


def _find_class_names(target: Target, probe: Probe) -> str | None:
    """Return the value of ``classes`` by which ``weight_label`` names a classifier's outputs; None if it cannot."""
    outputs = count_outputs(target)
    if probe.classes is not None and len(probe.classes) == outputs:
        return ""
    return "imagenet" if outputs == 1000 else None
