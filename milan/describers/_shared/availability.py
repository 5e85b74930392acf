"""What can describe units here and now: the models and the evidence that describers need, and which of it is there."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from milan.concepts.presence import has_pixel_labels
from milan.describers import list_describers
from milan.describers._shared.base import Describer
from milan.describers._shared.weight_pairs import count_outputs
from milan.errors import BadInput, MissingEvidence
from milan.probes import Probe
from milan.probes.class_labels import UNKNOWN
from milan.targets.target import Target


class DescriberChoice(NamedTuple):
    """A describer that can run, by its spec, and what it goes by."""

    spec: str
    reason: str


def check_ready(describer: Describer, target: Target, probe: Probe) -> None:
    """Check that a describer has its models and its evidence, before anything is computed.

    Raises:
        MissingEvidence: something is missing. The text names each model with size, licence, source and place in the
            cache, and the describers that would work instead.
    """
    missing = [str(each) for each in describer.find_missing_models()]
    try:
        describer.check_evidence(target, probe)
    except (MissingEvidence, BadInput) as error:
        missing.append(str(error))
    if missing:
        choices = _format_choices(target, probe)
        raise MissingEvidence(f"{describer.name} cannot run here: {'; '.join(missing)}. {choices}")


def _format_choices(target: Target, probe: Probe) -> str:
    found = [f"--describer {spec} ({reason})" for spec, reason in list_choices(target, probe)]
    if found:
        return f"Without further models these would work: {', '.join(found)}"
    return (
        "No describer works without further models here: that takes images in class folders, pixel labels, names of the"
        " network's classes, or an endpoint in OPENAI_BASE_URL"
    )


def list_choices(target: Target, probe: Probe) -> Iterator[DescriberChoice]:
    """Yield the describers that need no model to be downloaded, with what they go by."""
    if _has_endpoint():
        yield DescriberChoice("vlm", "an endpoint is given in OPENAI_BASE_URL")
    if has_pixel_labels(probe):
        yield DescriberChoice("netdissect", "the probe has pixel labels")
        yield DescriberChoice("compositional", "the probe has pixel labels")
    if has_class_labels(probe):
        yield DescriberChoice("linear_explanations:evidence=labels", "the probe has class labels")
    if classes := _find_class_names(target, probe):
        yield DescriberChoice(f"weight_label:llm=phrases{classes}", "the network's classes have names")


def choose_describer(target: Target, probe: Probe, load: Callable[[str], Describer]) -> DescriberChoice:
    """Return the best describer that can run: an endpoint that looks, an image-text model, pixel labels, class labels.

    Args:
        load: makes a describer of a spec.

    Raises:
        MissingEvidence: none can.
    """
    if _has_endpoint():
        return DescriberChoice("vlm", "an endpoint is given in OPENAI_BASE_URL")
    embedder = load("clip_dissect").find_missing_models()
    if not embedder:
        return DescriberChoice("clip_dissect", "its image-text model and its concepts are here or can be downloaded")
    for choice in list_choices(target, probe):
        return choice
    missing = "; ".join(map(str, embedder))
    raise MissingEvidence(f"no describer can run here: {missing}. {_format_choices(target, probe)}")


def _has_endpoint() -> bool:
    return "vlm" in list_describers() and bool(os.environ.get("OPENAI_BASE_URL"))


def has_class_labels(probe: Probe) -> bool:
    """Return whether a probe has at least two classes, and the class of each image is known."""
    labels = probe.labels
    return labels is not None and UNKNOWN not in labels and len(set(labels)) > 1


def _find_class_names(target: Target, probe: Probe) -> str:
    """Return the setting of ``weight_label`` that names a classifier's classes; empty if they have no names."""
    outputs = count_outputs(target)
    if probe.classes is not None and len(probe.classes) == outputs:
        return ',classes=""'
    return ",classes=imagenet" if outputs == 1000 else ""
