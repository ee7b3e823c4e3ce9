"""How answers are held against those of a reference, what is right, and which settings lose something."""

import dataclasses
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_autotune.accuracy import Exam
from pytest_autotune.engines.engine import Cause, CauseKind
from pytest_autotune.engines.lossy import losses, may_lose
from pytest_autotune.errors import DeployError, Infeasible, SuiteError
from pytest_autotune.examining import ask
from pytest_autotune.questions import MOST, Question, fingerprint, read_questions, shipped_questions
from pytest_autotune.records import Accuracy, Answers
from pytest_autotune.reporting.export import best_document
from pytest_autotune.reporting.markdown import markdown_text
from pytest_autotune.reporting.terminal import summary_lines
from pytest_autotune.suite_file import load_suite
from tests import make_records
from tests.make_reports import BEST, DEFAULTS, report

LOSS = "the KV cache is kept in fp8"
FREE = Question((("user", "Tell me."),))


def expecting(*choices):
    return Question((("user", f"{choices[0]}?"),), choices)


FOUR = tuple(expecting(word) for word in ("one", "two", "three", "four"))


def exam(questions=FOUR, least=0.75, **more):
    losing = lambda configuration: (LOSS,) if configuration.get("kv") == "fp8" else ()  # noqa: E731
    return Exam(questions, "asked", least, 32, losing, **more)


def answers(*texts, questions="asked"):
    return Answers(questions, texts)


RIGHT = answers("one", "two", "three", "four")


def trial(number, configuration, said=None, *, state="finished", measured=True):
    batches = (make_records.batch(8, output_throughput=1.0),) if measured else ()
    made = make_records.trial(number, *batches, configuration=configuration, state=state)
    return dataclasses.replace(made, answers=said)


FP8 = {"kv": "fp8"}


@pytest.mark.parametrize(
    ("own", "reference", "holds", "words"),
    [
        (RIGHT, RIGHT, True, "answers 4 of 4 prompts, the reference 4 (75 % asked for); "),
        (answers("one", "two", "three", "4"), RIGHT, True, "answers 3 of 4 prompts, the reference 4 (75 % asked for); "),
        (answers("one", "two", "", None), RIGHT, False, "answers 2 of 4 prompts, the reference 4 (75 % asked for); "),
        # What the reference does not know itself is no loss.
        (answers("one", "", "", ""), answers("one", "", "", ""), True, "answers 1 of 4 prompts, the reference 1 (75 % asked for); "),
        # A model that knows nothing is held against itself: nothing is right, but much is the same.
        (answers("a", "b", "c", "x"), answers("A", " b", "c", "d"), True, "answers 3 of 4 prompts as the reference does (75 % asked for); "),
        (answers("x", "y", "c", "d"), answers("a", "b", "c", "d"), False, "answers 2 of 4 prompts as the reference does (75 % asked for); "),
        (answers("one", "two", "three", ""), None, True, "answers 3 of 4 prompts (75 % asked for, and there is no reference without loss); "),
        (answers("a", "b", "c", "d"), None, False, "answers 0 of 4 prompts (75 % asked for, and there is no reference without loss); "),
    ],
)  # fmt: skip
def test_answers_are_held_against_the_reference_or_else_against_what_is_expected(own, reference, holds, words):
    found = exam().stand(own, reference, (LOSS,))
    assert (found.holds, found.words) == (holds, words + LOSS)


def test_a_prompt_without_an_expected_answer_is_kept_by_that_of_the_reference():
    mixed = exam((*FOUR[:2], FREE, FREE))
    reference = answers("one", "two", "Once upon", "a time")
    found = mixed.stand(answers("one", "two", "once  UPON", "no"), reference, (LOSS,))
    assert (found.kept, found.asked, found.reference, found.missed, found.holds) == (3, 4, 4, (3,), True)
    alone = mixed.stand(reference, None, (LOSS,))
    assert (alone.kept, alone.asked, alone.holds) == (2, 2, True)
    nothing = exam((FREE,)).stand(answers("Once"), None, (LOSS,))
    assert not nothing.holds
    assert nothing.words.startswith("cannot be judged: no prompt has an expected answer")


@pytest.mark.parametrize("nothing", ["", " \n", None])
def test_two_servers_that_say_nothing_do_not_agree(nothing):
    silent = answers(nothing, nothing, nothing, nothing)
    held = exam().stand(silent, silent, (LOSS,))
    assert not held.holds
    assert held.words.startswith("cannot be judged: the reference answers nothing within 32 tokens")
    once = exam((FREE, FREE)).stand(answers("Once", nothing), answers("once", nothing), (LOSS,))
    assert (once.holds, once.kept, once.asked) == (True, 1, 1)


SAID = st.tuples(*[st.sampled_from(["one", "two", "three", "four", "no", ""])] * 4)


@given(SAID, SAID, st.floats(0.01, 1))
def test_the_reference_keeps_its_own_answers_and_who_asks_for_less_refuses_no_more(own, reference, least):
    assume(any(reference))
    held = exam(least=least).stand(answers(*own), answers(*reference), (LOSS,))
    assert exam(least=least).stand(answers(*reference), answers(*reference), (LOSS,)).holds
    assert not held.holds or exam(least=least / 2).stand(answers(*own), answers(*reference), (LOSS,)).holds


def test_the_reference_is_the_defaults_or_else_what_answers_best_without_loss():
    poor, good = answers("one", "", "", ""), answers("one", "two", "", "")
    lossy, exact, better = trial(1, FP8, RIGHT), trial(2, {"n": 1}, poor), trial(3, {"n": 2}, good)
    assert exam().reference([lossy, exact, better]) is good
    assert exam().reference([lossy, exact, better, trial(4, {}, poor)]) is poor
    assert exam().reference([lossy, trial(4, {}, answers("one", questions="others"))]) is None
    assert exam(recorded=poor).reference([better]) is poor


def test_what_may_still_get_a_reference_is_not_judged():
    wrong = trial(1, FP8, answers("", "", "", ""))
    (pending, _) = exam().held([wrong, trial(2, {}, state="running", measured=False)])
    assert pending.accuracy is None
    assert not pending.inaccurate
    (judged, reference) = exam().held([wrong, trial(2, {}, RIGHT)])
    assert judged.inaccurate == f"answers 0 of 4 prompts, the reference 4 (75 % asked for); {LOSS}"
    assert reference.accuracy is None


def test_what_was_measured_without_the_questions_is_to_be_measured_again():
    asked_others = answers("one", questions="others")
    for configuration, said, measured, again in [
        (FP8, None, True, True),
        (FP8, asked_others, True, True),
        (FP8, RIGHT, True, False),
        (FP8, None, False, False),
        ({}, None, True, True),
        ({"n": 1}, None, True, False),
    ]:
        assert exam().unasked(trial(1, configuration, said, measured=measured)) is again
    (held,) = exam().held([trial(1, FP8)])
    assert held.inaccurate.startswith("was measured without these prompts")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("42", True),
        ("The answer is 42.", True),
        (" 42\n", True),
        ("142", False),
        ("forty  TWO!", True),
        ("fortytwo", False),
        ("", False),
        (None, False),
    ],
)
def test_an_answer_is_right_when_it_contains_the_expected_one_as_words_of_their_own(text, right):
    assert Question((), ("42", "Forty two")).answered(text) is right


def test_the_shipped_prompts_have_one_short_answer_each():
    shipped = shipped_questions()
    assert len(shipped) == len({question.prompt for question in shipped}) == 24
    assert not any(question.free for question in shipped)
    # What is asked does not hold the answer, but where it is to be copied.
    given_away = [question for question in shipped if question.answered(question.prompt.partition("exactly")[0])]
    assert not given_away


GOOD = '{"prompt": "a", "answer": "b"}\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ": has no question; "),
        (GOOD + "\n{\n", ":3: "),
        (GOOD + "[1]\n", ":2: "),
        ('{"answer": "b"}', ":1: there is neither prompt nor messages; write e.g. "),
        ('{"prompt": "a", "messages": []}', ":1: there is both prompt and messages; remove one of the two"),
        ('{"prompt": ""}', ':1: prompt: "" is not a text with something in it'),
        ('{"prompt": 1}', ":1: prompt: 1 is not a text"),
        ('{"prompt": "a", "anwser": "b"}', ":1: anwser: unknown key (did you mean 'answer'?)"),
        ('{"prompt": "a", "answer": 4}', ":1: answer: 4 is not a text"),
        (
            '{"prompt": "a", "answer": "b", "pattern": "c"}',
            ":1: pattern: there is answer as well; remove one of the two",
        ),
        ('{"prompt": "a", "choices": "b"}', ":1: choices: 'b' is not a list of answers"),
        ('{"prompt": "a", "choices": []}', ":1: choices: [] is not a list of answers"),
        ('{"prompt": "a", "pattern": "("}', ":1: pattern: '(' is no regular expression: "),
        ('{"messages": ["a"]}', ":1: messages[0]: 'a' is not a message; it has role and content"),
        (GOOD * (MOST + 1), f":{MOST + 1}: more than {MOST} questions"),
    ],
)
def test_a_mistake_in_a_file_of_prompts_is_one_line_with_file_and_line(tmp_path, text, problem):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(SuiteError) as caught:
        read_questions(path)
    message = str(caught.value).replace("''", '""')
    assert message.startswith(f"{path}{problem}")
    assert "\n" not in message


def test_other_expected_answers_are_the_same_questions_and_another_length_is_not():
    asked = fingerprint(FOUR, max_tokens=32)
    assert asked == fingerprint([dataclasses.replace(each, choices=("x",)) for each in FOUR], max_tokens=32)
    assert asked != fingerprint(FOUR, max_tokens=64)
    assert asked != fingerprint(FOUR[1:], max_tokens=32)


def suite(directory, engine, settings, *, fixed="{}"):
    path = directory / "lossy.yaml"
    command = "command: [serve, '{port}', '{flags}']\ndialect: " + engine + "\n"
    named = "engine: command\n" + command if engine in ("trtllm", "tgi") else f"engine: {engine}\n"
    path.write_text(f"name: lossy\n{named}model: m/m\nparameters: {json.dumps(settings)}\nfixed: {fixed}\n")
    return load_suite(path)


@pytest.mark.parametrize(
    ("engine", "setting", "value", "lost"),
    [
        ("vllm", "quantization", "fp8", "weights are quantized to fp8"),
        ("vllm", "quantization", "bitsandbytes", "weights are quantized by bitsandbytes"),
        ("vllm", "quantization", "kv-fp8", "the KV cache is kept in fp8"),
        ("vllm", "quantization", "fp8-kv-fp8", "weights are quantized to fp8 and the KV cache is kept in fp8"),
        ("vllm", "quantization", "bf16", ""),
        ("vllm", "quantization", "awq", ""),
        ("vllm", "kv_cache_dtype", "fp8_e5m2", "the KV cache is kept in fp8_e5m2"),
        ("vllm", "kv-cache-dtype", "auto", ""),
        ("vllm", "kv_cache_type", "fp8", "the KV cache is kept in fp8"),
        ("vllm", "max-num-seqs", 8, ""),
        ("sglang", "quantization", "fp8-kv-fp8", "weights are quantized to fp8 and the KV cache is kept in fp8_e4m3"),
        ("llamacpp", "cache-type-k", "q8_0", "cached keys are kept in q8_0"),
        ("llamacpp", "cache-type-v", "f16", ""),
        ("llamacpp", "quantization", "kv-int8", "cached keys are kept in q8_0 and cached values are kept in q8_0"),
        ("llama-cpp-python", "type_k", 8, "cached keys are kept in ggml type 8"),
        ("llama-cpp-python", "type_k", 1, ""),
        ("trtllm", "kv_cache_dtype", "fp8", "the KV cache is kept in fp8"),
        ("tgi", "quantize", "eetq", "weights are quantized by eetq"),
        ("tgi", "quantize", "gptq", ""),
        ("sim", "kv-cache-dtype", "fp8", "the KV cache is kept in fp8"),
    ],
)
def test_which_settings_lose_something(tmp_path, engine, setting, value, lost):
    found = suite(tmp_path, engine, {setting: [value]})
    (choice,) = found.space.parameters
    assert " and ".join(losses(found, {choice.name: choice.values[0]})) == lost
    assert losses(found, {}) == ()
    assert may_lose(found) is bool(lost)


def test_what_is_fixed_counts_for_every_configuration_and_a_quantized_checkpoint_loses_nothing(tmp_path):
    fixed = suite(tmp_path, "vllm", {"max-num-seqs": [8]}, fixed="{quantization: fp8}")
    assert losses(fixed, {"max-num-seqs": 8}) == ("weights are quantized to fp8",)
    assert may_lose(fixed)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "fp8"}}))
    stored = fixed.model_copy(update={"model": str(model)})
    assert losses(stored, {}) == ()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        replies = self.server.replies
        size = int(self.headers["Content-Length"])
        self.server.requests.append((self.path, json.loads(self.rfile.read(size))))
        status, text = replies.pop(0) if len(replies) > 1 else replies[0]
        body = json.dumps({"choices": [{"text": text, "message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Replies:
    """A server that answers each generation with the next of these; the last one stays."""

    argv, started_s, effective, model_name = (), 0.0, {}, "m"

    def __init__(self, *replies, cause=None):
        self.cause = cause
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.replies, self._server.requests = list(replies), []
        self.requests = self._server.requests
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,))

    def died(self):
        return self.cause

    def log_tail(self):
        return "the end"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_questions_are_asked_greedily_and_long_answers_are_shortened(tmp_path, api):
    asked = suite(tmp_path, "sim", {"kv-cache-dtype": ["fp8"]})
    asked = asked.model_copy(update={"load": asked.load.model_copy(update={"api": api})})
    with Replies((200, "x" * 5000)) as server:
        found = ask(server, exam((FREE, FREE)), asked)
    assert found == answers("x" * 300, "x" * 300)
    path, request = server.requests[0]
    assert (request["temperature"], request["max_tokens"], request["model"], request["stream"]) == (0, 32, "m", False)
    if api == "chat":
        assert (path, request["messages"]) == ("/v1/chat/completions", [{"role": "user", "content": "Tell me."}])
    else:
        assert (path, request["prompt"]) == ("/v1/completions", "Tell me.")


def test_what_is_refused_has_no_answer_and_what_fails_once_is_asked_again(tmp_path):
    asked = suite(tmp_path, "sim", {"kv-cache-dtype": ["fp8"]})
    with Replies((400, "")) as server:
        assert ask(server, exam((FREE,)), asked) == answers(None)
    with Replies((503, ""), (200, "yes")) as server:
        assert ask(server, exam((FREE,)), asked) == answers("yes")


@pytest.mark.parametrize(
    ("cause", "kind", "infrastructure"),
    [(None, DeployError, True), (Cause(CauseKind.OUT_OF_MEMORY, "CUDA out of memory"), Infeasible, False)],
    ids=["lives", "died"],
)
def test_a_server_that_does_not_answer_is_an_error_and_one_that_dies_what_it_died_of(
    tmp_path, cause, kind, infrastructure
):
    asked = suite(tmp_path, "sim", {"kv-cache-dtype": ["fp8"]})
    with Replies((503, ""), cause=cause) as server, pytest.raises(DeployError) as caught:
        ask(server, exam((FREE,)), asked)
    assert type(caught.value) is kind
    assert (caught.value.cause.kind is CauseKind.INFRASTRUCTURE) is infrastructure
    assert caught.value.log_tail == "the end"


def test_answers_have_a_deadline_of_their_own(tmp_path):
    asked = suite(tmp_path, "sim", {"kv-cache-dtype": ["fp8"]})
    hurried = asked.model_copy(update={"timeouts": asked.timeouts.model_copy(update={"accuracy_s": 1e-9})})
    silent = SimpleNamespace(url="http://127.0.0.1:9", model_name="m", died=lambda: None, log_tail=lambda: "")
    with pytest.raises(DeployError, match=r"not finished within 1e-09 s \(timeouts.accuracy\)"):
        ask(silent, exam((FREE,)), hurried)


def test_reports_name_what_cannot_win_by_its_answers():
    losing = Accuracy(
        14, 24, 23, (3,), f"answers 14 of 24 prompts, the reference 23 (95 % asked for); {LOSS}", holds=False
    )
    refused = [
        dataclasses.replace(BEST, id=number, configuration={"n": number}, accuracy=losing) for number in range(10, 17)
    ]
    told = report(DEFAULTS, *refused)
    assert told.selection.best.trial is DEFAULTS
    assert not any(judged.compliant for judged in told.selection.ranking if judged.trial is not DEFAULTS)
    for lines in (summary_lines(told), markdown_text([told]).splitlines()):
        named = [line.strip(" -") for line in lines if "cannot win" in line]
        assert named == [f"cannot win: n={number} {losing.words}" for number in range(10, 15)]
        assert any("... and 2 more trials by their answers" in line for line in lines)
    (first, *_) = best_document(told, told.selection.best)["accuracy"]["trials"]
    assert (first["configuration"], first["kept"], first["reference"], first["holds"]) == ({"n": 10}, 14, 23, False)
    assert first["missed"] == []


def test_answers_that_cannot_win_break_the_gate_of_a_search_without_another():
    words = f"answers 0 of 4 prompts (75 % asked for, and there is no reference without loss); {LOSS}"
    refused = dataclasses.replace(BEST, accuracy=Accuracy(0, 4, None, (0, 1, 2, 3), words, holds=False))
    told = report(refused)
    assert told.selection.best is None
    (rule,) = told.gate.rules
    assert not rule.holds
    assert f"max-num-seqs=64 tp=2 {words}. Ask for less (accuracy:)" in rule.explanation
