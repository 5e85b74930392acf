"""Load a language model by name or path."""

import inspect
from collections.abc import Mapping
from typing import Any

from milan.errors import BadInput, UnknownName
from milan.pretrained.llm import Llm

FAMILIES = ("phrases", "diorama", "openai", "hf")
STAND_INS = ("phrases", "diorama")  # programs that are no language models and need no name after the family's


def load_llm(
    spec: str = "phrases", *, base_url: str = "", device: str = "cpu", options: Mapping[str, Any] | None = None
) -> Llm:
    """Load a language model by name or path.

    Args:
        spec: ``openai:MODEL`` (any endpoint of OpenAI's protocol: OpenAI, vLLM, Ollama, llama.cpp), ``hf:ID_OR_FOLDER``
            (a chat model of transformers), ``PATH/FILE.py:NAME`` (a custom class or function that is called without
            arguments), or a program that stands in for a model and costs nothing: ``phrases`` (counts the phrases in
            the texts it is given) or ``diorama`` (reads images: finds the concept nearest to them with the image-text
            model trained on Diorama).
        base_url: address of the endpoint, such as http://localhost:8000/v1; $OPENAI_BASE_URL or OpenAI's by default.
        device: device of a model in this process.
        options: further constructor arguments of the model: temperature, longest, timeout, workers, key_variable and
            extra of an endpoint, precision of a model in this process (``milan.pretrained.openai_endpoint``,
            ``milan.pretrained.chat_model``).

    Raises:
        UnknownName: no such family or option.
        BadInput: the path leads to no such model, or an option cannot be used.
        MissingEvidence: Diorama's image-text model was not built.
    """
    given = dict(options or {})
    if spec.rpartition(":")[0].endswith(".py"):
        return _load_custom(spec)
    family, _, name = spec.partition(":")
    if family not in FAMILIES or bool(name) == (family in STAND_INS):
        raise UnknownName(
            "language model",
            spec,
            ["phrases", "diorama", "openai:", "hf:"],
            "write openai:MODEL, hf:ID_OR_FOLDER, FILE.py:NAME, phrases or diorama",
        )
    if family == "phrases":
        from milan.pretrained.phrase_counter import PhraseCounter

        return PhraseCounter(**_check_options(PhraseCounter, given))
    if family == "diorama":
        from milan.pretrained.concept_matcher import ConceptMatcher

        return ConceptMatcher(device=device, **_check_options(ConceptMatcher, given))
    if family == "openai":
        from milan.pretrained.openai_endpoint import OpenAiEndpoint

        return OpenAiEndpoint(name, base_url=base_url, **_check_options(OpenAiEndpoint, given))
    from milan.pretrained.chat_model import ChatModel

    return ChatModel(name, device=device, **_check_options(ChatModel, given))


def _check_options(cls: type[Llm], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options if the class takes all of them; raise ``UnknownName`` otherwise."""
    option_names = [
        name
        for name in inspect.signature(cls.__init__).parameters
        if name not in ("self", "name", "base_url", "device")
    ]
    for name in options:
        if name not in option_names:
            raise UnknownName(
                f"option of {cls.__name__}", name, option_names, f"it has: {', '.join(option_names) or 'none'}"
            )
    return dict(options)


def _load_custom(spec: str) -> Llm:
    # Imported here because it needs torch, which an endpoint does not.
    from milan.pretrained.model_sources import load_from_file

    model = load_from_file(spec, "language model")
    if not isinstance(model, Llm):
        raise BadInput(f"{spec} returns a {type(model).__name__}; it must return a milan.pretrained.llm.Llm")
    return model
