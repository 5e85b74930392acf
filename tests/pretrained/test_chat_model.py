"""A chat model of transformers, a few kB with random weights, loaded as the published ones are."""

from pathlib import Path

import pytest
import torch

from milan.errors import BadInput
from milan.pretrained.chat_markup import final_answer
from milan.pretrained.llm import Message, Question, TemporaryFailure, Unanswered
from milan.pretrained.llm_loading import load_llm

WORDS = ("<pad>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>", "red", "cars", "dogs", "say", "it")


def save(folder: Path, chat: bool = True) -> str:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    named = {
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "additional_special_tokens": list(WORDS[3:6]),
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **named)
    if chat:
        tokenizer.chat_template = (
            "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} {% endfor %}<|assistant|> "
        )
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("chat"))


def asked(text: str = "say it", draw: int = 0) -> Question:
    return Question((Message("system", "red dogs"), Message("user", text)), "explain", (), sample_index=draw)


def answers(llm, *questions: Question) -> list[str]:
    found = []
    for question in questions:
        try:
            found.append(llm.answer(question))
        except TemporaryFailure as error:  # a random model may go on without end
            found.append(str(error))
    return found


def test_the_same_question_has_the_same_answer_and_another_draw_another(spec):
    llm = load_llm(spec, options={"longest": 40})
    before = torch.get_rng_state()
    first = answers(llm, *(asked(draw=draw) for draw in range(4)))
    assert torch.equal(before, torch.get_rng_state()), "the global random state is unchanged"
    torch.manual_seed(5)
    assert answers(llm, *(asked(draw=draw) for draw in range(4))) == first
    assert len(set(first)) > 1
    assert not any("<|" in final_answer(each) for each in first)
    assert llm.key == load_llm(spec, options={"longest": 40}).key != load_llm(spec, options={"longest": 41}).key


def test_what_has_no_room_or_no_template_is_told(spec, tmp_path):
    with pytest.raises(Unanswered, match="reads 64 tokens; the question has"):
        load_llm(spec).answer(asked("red cars " * 40))
    with pytest.raises(BadInput, match="no chat template"):
        load_llm(save(tmp_path, chat=False))
    with pytest.raises(BadInput, match="no folder"):
        load_llm("hf:./nowhere")
