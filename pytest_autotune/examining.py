"""Asks a server the questions of an accuracy gate, before it is loaded."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_autotune.accuracy import Exam
from pytest_autotune.control import Control, ControlError
from pytest_autotune.engines.engine import Cause, CauseKind
from pytest_autotune.engines.lossy import losses, may_lose
from pytest_autotune.errors import DeployError, Infeasible
from pytest_autotune.load.plan import headers_of
from pytest_autotune.questions import fingerprint, read_questions, shipped_questions
from pytest_autotune.records import Answers

if TYPE_CHECKING:
    from pytest_autotune.baseline import Baseline
    from pytest_autotune.deploy.server import Server
    from pytest_autotune.questions import Question
    from pytest_autotune.suite import Suite

AT_ONCE = 4  # questions: few, so that what is answered together hardly changes what is answered
ATTEMPTS = 2  # at a question that the server did not answer, or not as a server does
LONGEST = 300  # characters of an answer that are kept
DYING_S = 2.0  # from the first connection that breaks until the end of a process is known
_PAUSE_S = 0.05
_GENERATING = ("completions", "chat")
_PASSING = (408, 425, 429)  # statuses of a refusal that another attempt may not meet


def exam_of(suite: Suite) -> Exam | None:
    """Return what the servers of a suite are asked; None where the suite asks for nothing, or nothing is generated.

    Raises `SuiteError` for a file of prompts that cannot be read.
    """
    if suite.accuracy is None or suite.load.api not in _GENERATING:
        return None
    named = suite.accuracy.prompts
    path = None if named is None else suite.path.parent / named
    if path is not None and not path.is_file():
        raise suite.error(f"there is no file {path}; a relative path counts from the suite's file", "accuracy")
    questions = shipped_questions() if path is None else read_questions(path)
    max_tokens = suite.accuracy.max_tokens
    return Exam(
        questions=questions,
        fingerprint=fingerprint(questions, max_tokens=max_tokens),
        least=suite.accuracy.least,
        max_tokens=max_tokens,
        losses=partial(losses, suite),
    )


def exam_of_search(suite: Suite) -> Exam | None:
    """Return what the servers of a search are asked; None as well where none can be less exact than its checkpoint."""
    exam = exam_of(suite)  # before all else: a mistake in the file of prompts is told whatever is tuned
    return exam if exam is not None and may_lose(suite) else None


def exam_of_recorded(suite: Suite, baseline: Baseline) -> Exam | None:
    """Return what the server of a recorded best is asked, with the answers that its own are held against.

    None where it loses nothing. Answers to other questions are no reference.
    """
    exam = exam_of(suite)
    if exam is None or not exam.losses(baseline.configuration):
        return None
    then = baseline.accuracy
    if then is None or then.reference is None or then.questions != exam.fingerprint:
        return exam
    return replace(exam, recorded=Answers(then.questions, then.reference))


def ask(server: Server, exam: Exam, suite: Suite) -> Answers:
    """Return what a server answers; raise `Infeasible` or `DeployError` when it does not, within its own deadline.

    A question that it refuses (too long for its context) has no answer, which is never right.
    """
    control = Control(server.url, headers=headers_of(suite.load), timeout_s=suite.load.request_timeout_s)
    deadline = time.monotonic() + suite.timeouts.accuracy_s
    one = partial(_answer, control, server, suite, max_tokens=exam.max_tokens, deadline=deadline)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        texts = tuple(pool.map(one, exam.questions))
    except (ControlError, TimeoutError) as error:
        cause = _death_of(server) or Cause(CauseKind.INFRASTRUCTURE, f"no answers to judge its accuracy by: {error}")
        kind = Infeasible if cause.kind.finding else DeployError
        raise kind(str(cause), log_tail=server.log_tail(), cause=cause) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what is still asked ends with the server
    return Answers(exam.fingerprint, texts)


def _death_of(server: Server) -> Cause | None:
    """Return why a server is gone that has not answered; its connections may be closed before its end is known."""
    deadline = time.monotonic() + DYING_S
    while (cause := server.died()) is None and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return cause


def _answer(
    control: Control, server: Server, suite: Suite, question: Question, *, max_tokens: int, deadline: float
) -> str | None:
    request: dict[str, Any] = {
        "model": server.model_name,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": False,
    }
    if suite.load.api == "chat":
        path = "/v1/chat/completions"
        request["messages"] = [{"role": role, "content": content} for role, content in question.messages]
    else:
        path = "/v1/completions"
        request["prompt"] = question.prompt
    attempt = 1
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"not finished within {suite.timeouts.accuracy_s:g} s (timeouts.accuracy)")
        try:
            answer = control.call("POST", path, request, timeout_s=min(control.timeout_s, left_s))
            return _text_of(answer.json())[:LONGEST]
        except ControlError as error:
            if error.status is not None and 400 <= error.status < 500 and error.status not in _PASSING:
                return None
            if attempt == ATTEMPTS:
                raise
        attempt += 1


def _text_of(document: Any) -> str:
    """Return the text of an answer; empty where a server has put none into it."""
    choices = document.get("choices") if isinstance(document, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return ""
    message = first.get("message")
    text = message.get("content") if isinstance(message, dict) else first.get("text")
    return text if isinstance(text, str) else ""
