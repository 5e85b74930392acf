"""Chat models of transformers, in process."""

from typing import Any

import torch

from milan.errors import BadInput
from milan.pretrained.llm import Llm, Question, TemporaryFailure, Unanswered
from milan.pretrained.model_sources import Precision, check_device, get_dtype, resolve_model
from milan.storage.files import content_key
from milan.storage.hub_access import format_error_line, quiet
from milan.targets.fingerprints import network_hash


class ChatModel(Llm):
    """A causal language model whose tokenizer has a chat template; the same question always has the same answer.

    Args:
        name: folder written by ``save_pretrained``, or a hub id.
        device: where it runs.
        precision: of weights and computation.
        temperature: with which words are drawn; 0 takes the likeliest each time, so that every draw is the same.
        longest: tokens of an answer at most; one that is cut off there is no answer.

    Raises:
        BadInput: there is no such model, or it has no chat template.
    """

    def __init__(
        self,
        name: str,
        *,
        device: str = "cpu",
        precision: Precision = "float32",
        temperature: float = 1.0,
        longest: int = 400,
    ):
        import transformers

        source, local = resolve_model(name, kind="chat model of transformers")
        self.name, self.device, self.temperature, self.longest = (
            f"hf:{name}",
            check_device(device),
            temperature,
            longest,
        )
        try:
            with quiet():
                options = {"local_files_only": local, "trust_remote_code": False}
                self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **options)
                model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    source, dtype=get_dtype(precision), **options
                )
        except Exception as error:  # the hub's client, the network and transformers each raise their own
            raise BadInput(f"{self.name} cannot be loaded as a language model: {format_error_line(error)}") from error
        if not getattr(self.tokenizer, "chat_template", None):
            raise BadInput(
                f"{self.name} has no chat template, so it cannot be asked; give a model that was tuned for chat"
            )
        self.model: Any = model.to(self.device).eval().requires_grad_(False)
        how = {
            "template": self.tokenizer.chat_template,
            "temperature": temperature,
            "longest": longest,
            "precision": precision,
        }
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        self.key = content_key(llm=network_hash(self.model), vocabulary=vocabulary, how=how)

    @torch.no_grad()
    def answer(self, question: Question, attempt: int = 0) -> str:
        """Return a reply, sampled with a seed from question and attempt, or the most likely one at temperature 0.

        Raises:
            Unanswered: the question has more tokens than the model reads, or the reply ends too early.
        """
        talk = [{"role": message.role, "content": message.text} for message in question.messages]
        given = self.tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).to(self.device)
        question_length = given["input_ids"].shape[1]
        room = getattr(self.model.config, "max_position_embeddings", None) or question_length + self.longest
        if question_length >= room:
            raise Unanswered(
                f"{self.name} reads {room} tokens; the question has {question_length}: show it fewer texts"
            )
        longest = min(self.longest, room - question_length)
        reply = self._generate(
            {name: given[name] for name in ("input_ids", "attention_mask")}, longest, question, attempt
        )[0, question_length:]
        # Special tokens stay: some of them are where a reasoning block ends (milan.pretrained.chat_markup).
        text = self.tokenizer.decode(reply, skip_special_tokens=False)
        if len(reply) == longest and int(reply[-1]) not in self._end_tokens:
            raise TemporaryFailure(f"{self.name} was cut off after {longest} tokens: {text[:80]!r}")
        return text

    def _generate(self, given: dict[str, Any], longest: int, question: Question, attempt: int) -> Any:
        """Return the tokens of question and answer; the global random state is preserved."""
        how: dict[str, Any] = {
            "max_new_tokens": longest,
            "do_sample": self.temperature > 0,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        if self.temperature > 0:
            how |= {"temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        devices = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with quiet(), torch.random.fork_rng(devices):
            torch.manual_seed(int(content_key(question=question.key, attempt=attempt), 16) % 2**63)
            return self.model.generate(**given, **how)

    @property
    def _end_tokens(self) -> set[int]:
        """Return the tokens that end an answer."""
        end_tokens = self.model.generation_config.eos_token_id
        return {*(end_tokens if isinstance(end_tokens, list) else [end_tokens]), self.tokenizer.eos_token_id}
