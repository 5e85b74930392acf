"""Removes what language models write around an answer: blocks of reasoning and tokens of chat templates."""

import re

_THINK = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad)"
_CHANNEL = r"<\|channel\|>"
# Each row: the opening and the closing of a block of reasoning, and the models that write it.
_BLOCKS = (
    (rf"<{_THINK}>", rf"</{_THINK}>", "DeepSeek-R1, Qwen, Seed and most others"),
    (r"\[THINK\]", r"\[/THINK\]", "Magistral"),
    (r"◁think▷", r"◁/think▷", "Kimi"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>", "OpenThinker"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>", "Command A"),
    (r"<unused94>", r"<unused95>", "MedGemma"),
    (rf"{_CHANNEL}(?:analysis|commentary)\b[^<>]*<\|message\|>", rf"{_CHANNEL}final\b[^<>]*<\|message\|>", "gpt-oss"),
    (r"here(?:'s| is) my thought process:", r"here(?:'s| is) my response:", "Granite"),
)
_OPENS, _CLOSES, _ = ("|".join(column) for column in zip(*_BLOCKS, strict=True))
_THOUGHT = re.compile(f"{_OPENS}|(?P<closes>{_CLOSES})", re.IGNORECASE)
# Tokens between turns, with the role of the next turn, and the tags that some models put their answer in.
_TURN = re.compile(
    rf"(?:<\|start_header_id\|>\w*<\|end_header_id\|>|{_CHANNEL}\w*|<[|｜][^<>|｜\n]{{1,40}}[|｜]>|<\|turn>|<turn\|>"
    r"|</?s>|<(?:start|end)_of_(?:turn|utterance|text)>|<(?:bos|eos|eot|pad)>|\[/?INST\]"
    r"|</?(?:answer|response|output)>)"
    r"(?:(?:assistant|model)[ \t]*\n)?",
    re.IGNORECASE,
)


def final_answer(reply: str) -> str:
    """Return the answer without the reasoning before it and the tokens around it; empty if there is no more than that.

    A block that is only closed was opened by the chat template: the answer follows it. One that is only opened was cut
    off. What follows the end of a turn is another turn and is dropped. Takes time linear in the length of ``reply``.

    >>> final_answer("<think>All are red. Cars, too.</think>red cars<|im_end|>")
    'red cars'
    >>> final_answer("All are red.</think><answer>red cars</answer>"), final_answer("<think>All are red, so")
    ('red cars', '')
    """
    parts, start, reasoning = [""], 0, False
    for tag in _THOUGHT.finditer(reply):
        if tag["closes"]:
            parts = parts if reasoning else [""]
            start, reasoning = tag.end(), False
        elif not reasoning:
            parts.append(reply[start : tag.start()])
            reasoning = True
    text = "".join(parts if reasoning else [*parts, reply[start:]])
    return next((part.strip() for part in _TURN.split(text) if part.strip()), "")
