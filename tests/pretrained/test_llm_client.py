"""The client of language models: cache, retries, limits, errors, and parsers of replies."""

import logging
import signal
import subprocess
import sys
import time

import pytest

from milan.errors import BadInput, UnknownName
from milan.pretrained.llm import Llm, Message, Question, TemporaryFailure
from milan.pretrained.llm_client import LlmClient, NoAnswer, UnparsableReply, load_llm_client
from milan.pretrained.llm_loading import load_llm
from milan.pretrained.reply_parsing import make_explanation_parser, make_integer_parser, make_label_parser
from tests.pretrained.chat_server import KEY, choice, serving

HTML = {"Content-Type": "text/html"}
LABEL = make_label_parser(8)


def question(text: str = "a red car", draw: int = 0) -> Question:
    return Question((Message("system", "Say it."), Message("user", text)), "simplify", ((text, 0),), sample_index=draw)


@pytest.fixture
def server(monkeypatch, cache):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server:
        yield server


def make_client(server, **settings) -> LlmClient:
    return load_llm_client(
        "openai:tiny",
        base_url=server.url,
        options={"pause": 0.001, "timeout": 2.0} | settings.pop("options", {}),
        **settings,
    )


def test_replies_are_cached_by_question_and_settings(server):
    assert make_client(server).ask([question(), question()], LABEL) == ["red cars", "red cars"]
    assert len(server.asked) == 1
    body = server.asked[0]
    assert body["model"] == "tiny"
    assert body["messages"] == [{"role": "system", "content": "Say it."}, {"role": "user", "content": "a red car"}]
    assert server.keys == [f"Bearer {KEY}"]
    assert make_client(server).ask([question()], LABEL) == ["red cars"]
    assert len(server.asked) == 1, "the client of another run finds it"
    make_client(server).ask([question(draw=1)], LABEL)
    make_client(server, options={"temperature": 0.5}).ask([question()], LABEL)
    assert len(server.asked) == 3, "other samples and settings are other questions"


TEMPORARY = {
    "429": (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}),
    "500": (500, {}, {"error": "oops"}),
    "503 in HTML": (503, HTML, "<html>gone fishing</html>"),
    "HTML with 200": (200, HTML, "<!doctype html><title>Log in</title>"),
    "no choices": (200, {}, {"choices": []}),
    "choices that are none": (200, {}, {"choices": [None]}),
    "no content": (200, {}, choice(None)),
    "a part that is null": (200, {}, choice([{"type": "text", "text": None}])),
    "thoughts alone": (200, {}, choice([{"type": "thinking", "thinking": [{"type": "text", "text": "red cars"}]}])),
    "thoughts that were cut off": (200, {}, choice("<think>They are all red, so")),
    "an error in the choice": (200, {}, choice("red", finish="error")),
    "JSON as deep as the stack": (200, {}, "[" * 200_000),
    "an answer as deep as the stack": (200, {}, choice("[" * 100_000)),
    "a number of 5,000 digits": (200, {}, '{"choices": ' + "9" * 5_000 + "}"),
    "blank": (200, {}, choice("  \n ")),
    "an error with 200": (200, {}, {"error": {"message": "model overloaded"}}),
    "a cookie of odd signs": (503, {"Set-Cookie": "\xff=1"}, ""),
    "half of a JSON": (200, {}, '{"choices": [{"mess'),
    "a list": (200, {}, "[]"),
    "not all of it": (200, {"Content-Length": "500"}, "{}"),
    "another language": (200, {}, choice("красные машины")),
    "10 kB": (200, {}, choice("very " * 2000 + "red cars")),
    "talk in several lines": (200, {}, choice("Sure!\n\nHere is a label:\nred cars")),
    "a refusal in words": (200, {}, choice("I'm sorry, but I cannot help with that.")),
    "markup": (200, {}, choice("<html><b>red</b></html>")),
    "JSON of more than a text": (200, {}, choice('{"label": "red", "why": "cars"}')),
    "broken JSON": (200, {}, choice('```json\n{"label": "red ca\n```')),
}


@pytest.mark.parametrize("turn", TEMPORARY.values(), ids=TEMPORARY)
def test_temporary_failures_are_retried_and_never_become_answers(turn, server):
    server.turns = [turn]
    assert make_client(server).ask([question()], LABEL) == ["red cars"]
    assert len(server.asked) == 2
    server.turns = [turn] * 3
    (found,) = make_client(server, options={"tries": 3}).ask([question("a dog")], LABEL)
    assert isinstance(found, NoAnswer)
    assert found.reason
    assert KEY not in found.reason
    assert make_client(server).ask([question("a dog")], LABEL) == ["red cars"], "the next run asks again"


FINAL = {
    "refusal": (200, {}, choice(None, refusal="I will not")),
    "filter": (200, {}, choice("", finish="content_filter")),
    "cut off": (200, {}, choice("red ca", finish="length")),
    "too long a prompt": (400, {}, {"error": {"message": f"maximum context length; your key {KEY}"}}),
    "a redirect": (302, {"Location": "http://127.0.0.1:1/"}, "elsewhere"),
}


@pytest.mark.parametrize("turn", FINAL.values(), ids=FINAL)
def test_final_failures_are_not_retried_within_a_run(turn, server):
    server.turns = [turn]
    (found,) = make_client(server).ask([question()], LABEL)
    assert isinstance(found, NoAnswer)
    assert KEY not in found.reason
    assert len(server.asked) == 1
    assert make_client(server).ask([question()], LABEL) == ["red cars"], "but in the next run"


@pytest.mark.parametrize(("status", "message"), [(401, "the key is not accepted"), (404, "no such model")])
def test_errors_of_the_key_or_the_model_end_the_run(status, message, server):
    server.turns = [(status, {}, {"error": {"message": f"Incorrect API key provided: {KEY}"}})]
    with pytest.raises(BadInput, match=message) as raised:
        make_client(server).ask([question()], LABEL)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_never_answers_runs_into_the_timeout(drips, server):
    server.pause, server.drips, begun = 30.0, drips, time.monotonic()
    (found,) = make_client(server, options={"timeout": 0.1, "tries": 2}).ask([question()], LABEL)
    assert isinstance(found, NoAnswer)
    assert "no answer within 0.1 s (2 tries)" in found.reason
    assert time.monotonic() - begun < 10


def test_an_address_without_a_server_is_an_error():
    with pytest.raises(BadInput, match="cannot be reached"):
        load_llm_client("openai:tiny", base_url="http://127.0.0.1:9/v1", options={"pause": 0.001, "tries": 2}).ask(
            [question()], LABEL
        )


def test_a_fatal_error_cancels_all_requests(server):
    server.pauses, server.turns = [30.0, 30.0, 0.0], [(200, {}, choice("red"))] * 2 + [(401, {}, {})]
    asked, begun = [question(str(number)) for number in range(9)], time.monotonic()
    with pytest.raises(BadInput, match="401"):
        make_client(server, options={"workers": 3, "timeout": 60.0}).ask(asked, LABEL)
    assert time.monotonic() - begun < 10
    assert len(server.asked) <= 4, "at most the one that was begun before it was heard"


ASKING = """
import sys
from milan.console.command_line import run_program
from milan.pretrained.llm_client import load_llm_client
from milan.pretrained.llm import Message, Question
asked = [Question((Message("user", str(number)),), "explain", ()) for number in range(6)]
client = load_llm_client("openai:tiny", base_url=sys.argv[1], options={"workers": int(sys.argv[2]), "pause": 0.0})
sys.exit(run_program(lambda: client.ask(asked, str)))
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_sigterm_cancels_all_requests(workers, server):
    server.pause = 30.0
    process = subprocess.Popen([sys.executable, "-c", ASKING, server.url, str(workers)], stderr=subprocess.PIPE)
    while server.together < workers:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143
    assert len(server.asked) == workers


def test_max_calls_bounds_simultaneous_requests(server):
    server.pause = 0.05
    asked = [question(f"a car {number}") for number in range(8)]
    found = make_client(server, max_calls=5, options={"workers": 4}).ask(asked, LABEL)
    assert len(server.asked) == 5
    assert server.most > 1
    assert sum(isinstance(each, NoAnswer) for each in found) == 3
    assert "max_calls" in next(each.reason for each in found if isinstance(each, NoAnswer))
    make_client(server, max_calls=3).ask(asked, LABEL)
    assert len(server.asked) == 8, "the next run asks only the other three"


def test_the_key_is_never_stored_shown_or_logged(server, cache, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    server.turns = [TEMPORARY["500"]]
    made = make_client(server)
    made.ask([question()], LABEL)
    assert all(KEY.encode() not in file.read_bytes() for file in cache.rglob("*") if file.is_file())
    printed = capfd.readouterr()
    assert KEY not in caplog.text + printed.out + printed.err + repr(vars(made.llm)) + made.llm.key


def test_unusable_options_are_errors(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(BadInput, match=r"no key for openai:gpt: set \$OPENAI_API_KEY"):
        load_llm("openai:gpt")
    with pytest.raises(BadInput, match=r"base_url of example\.org contains a password"):
        load_llm("openai:gpt", base_url="https://me:secret@example.org/v1")
    with pytest.raises(BadInput, match="no address"):
        load_llm("openai:gpt", base_url="localhost:8000")
    with pytest.raises(UnknownName, match="nearest: phrases"):
        load_llm("phrase")
    with pytest.raises(BadInput, match="German"):
        load_llm_client("phrases", options={"language": "German"})
    with pytest.raises(UnknownName, match="nearest: timeout"):
        load_llm("openai:gpt", options={"timeuot": 3})


REASONING = [
    "<think>\nAll are red.\n</think>\n\nred cars",
    "All are red.\n</think>\n\nred cars",
    "<think></think>red cars",
    "<seed:think>All are red.</seed:think>red cars",
    "<think>To use <think> and </think> here? No.</think>red cars",
    "[THINK]All are red.[/THINK]red cars",
    "◁think▷All are red.◁/think▷red cars",
    "<|channel|>analysis<|message|>All are red.<|end|><|start|>assistant<|channel|>final<|message|>red cars<|return|>",
    "<|START_THINKING|>All are red.<|END_THINKING|><|START_RESPONSE|>red cars<|END_RESPONSE|>",
    "Here is my thought process: all are red.\nHere is my response: red cars",
    "<thought>All are red.</thought><answer>red cars</answer>",
    "red cars <think>Or are they?",
]
ENDS = "<|im_end|> <|eot_id|> <|end|> <|endoftext|> <｜end▁of▁sentence｜> [/INST] <end_of_turn> </s> <turn|>"


@pytest.mark.parametrize("reply", REASONING)
def test_reasoning_is_removed_from_replies(reply):
    assert LABEL(reply) == make_explanation_parser(60)(reply) == "red cars"


@pytest.mark.parametrize("end", ENDS.split(" "))
def test_chat_tokens_and_further_turns_are_removed_from_replies(end):
    for reply in (f"red cars{end}", f"<|im_start|>assistant\nred cars{end}\n{end}\n", f"red cars{end}\nuser: Thanks!"):
        assert LABEL(reply) == make_explanation_parser(60)(reply) == "red cars"


ERRORS = """503 Service Unavailable|Bad Gateway|HTTP 429: Too Many Requests|Error: rate limit|Error 500|null|None|n/a
The server had an error while processing your request|That model is currently overloaded with other requests
An error occurred (ThrottlingException)|You exceeded your current quota|upstream connect error|no healthy upstream
Something went wrong. Please try again later.|CUDA out of memory|Service temporarily unavailable
Model x/y is loading|Request timed out.|Incorrect API key provided"""
SIGNS = "error messages on screens|servers in racks|model trains|speed limit signs|504 in digits|an empty petrol gauge"


def test_error_texts_are_no_answers_and_descriptions_of_error_messages_are():
    for text in ERRORS.replace("\n", "|").split("|"):
        for read in (LABEL, make_explanation_parser(60)):
            with pytest.raises(UnparsableReply):
                read(text)
    for text in SIGNS.split("|"):
        assert make_explanation_parser(60)(text) == text


HUGE = 300_000
ABSURD = [
    "a " * HUGE + "b",
    " " * HUGE + "a" + " " * HUGE + "b",
    "```" + "a" * HUGE,
    "<think>" * HUGE,
    "<" * HUGE,
    "a = " + "*" * HUGE,
    "9" * HUGE,
    "a\t" + "9" * HUGE,
    '{"a":' * HUGE,
    "x" + "\t" * HUGE + "y",
    "<|channel|>analysis" * HUGE,
    "</think>" * HUGE,
    "\ud800" * 99,
]


@pytest.mark.parametrize("reply", ABSURD, ids=[reply[:12] for reply in ABSURD])
def test_huge_malformed_replies_are_refused_quickly(reply):
    class Absurd(Echo):
        def answer(self, question: Question, attempt: int = 0) -> str:
            return reply

    for read in (LABEL, make_explanation_parser(60), make_integer_parser(["a"])):
        (found,) = LlmClient(Absurd(), tries=1).ask([question()], read)
        assert isinstance(found, NoAnswer)
        assert len(found.reason) < 400


def test_a_question_has_a_deadline():
    class Slow(Echo):
        def answer(self, question: Question, attempt: int = 0) -> str:
            raise TemporaryFailure("busy", retry_after=50.0)

    (found,) = LlmClient(Slow(), deadline=40.0).ask([question()], LABEL)
    assert found == NoAnswer("busy (1 tries)")


def test_replies_in_another_language_on_request(server):
    server.usual = choice("标签：红色的汽车。")
    chinese = make_client(server, options={"language": "Chinese"})
    assert chinese.ask([question()], make_label_parser(8, chinese.language)) == ["红色的汽车"]
    assert server.asked[0]["messages"][0]["content"] == "Say it.\n\nAnswer in Chinese."
    assert chinese.key != make_client(server).key == make_client(server).llm.key
    assert make_explanation_parser(60, "Russian")("красные машины.") == "красные машины"
    with pytest.raises(UnparsableReply):
        make_explanation_parser(60)("красные машины")


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("Red cars.", "Red cars"),
        ("```text\nred cars\n```", "red cars"),
        ("```red cars```", "red cars"),
        ('1. "red cars"', "red cars"),
        ("Label: red cars", "red cars"),
        ('{"label": "red cars"}', "red cars"),
    ],
)
def test_labels_are_parsed_out_of_markup(reply, label):
    assert LABEL(reply) == label


def test_explanations_are_parsed_without_their_lead_in():
    read = make_explanation_parser(20)
    for reply in (
        "insects.",
        "this neuron looks for insects.",
        "The main thing this neuron does is find insects",
        "Unit 4 looks for insects",
    ):
        assert read(reply) == "insects"
    assert read("find insects. It also looks for beaches.") == "find insects. It also looks for beaches."


@pytest.mark.parametrize(
    "reply",
    [
        "a cat\t3",
        "a cat\t3\na dog\t11",
        "a dog\t1\na cat\t3",
        "a cat\tunknown\na dog\t0",
        "a cat\t3\na dog\t2\na cow\t1",
    ],
)
def test_integers_must_be_complete_and_in_order(reply):
    assert make_integer_parser(["a cat", "a dog"])("a cat\t3\na dog: 2") == [3, 2]
    with pytest.raises(UnparsableReply):
        make_integer_parser(["a cat", "a dog"])(reply)


class Echo(Llm):
    """Replies with the question, for clients that need no server."""

    key, name, is_cacheable = "echo", "echo", False

    def answer(self, question: Question, attempt: int = 0) -> str:
        return question.messages[-1].text


def test_a_custom_model_from_a_file(tmp_path):
    assert LlmClient(Echo()).ask([question()], LABEL) == ["a red car"]
    assert isinstance(load_llm(f"{__file__}:Echo"), Llm)
