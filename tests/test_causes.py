"""Why a server failed, read from what servers of all engines were reported to have written."""

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.engines.causes import MAX_LENGTH, MAX_LINES, classify
from pytest_autotune.engines.engine import CauseKind

LOGS = Path(__file__).parent / "data" / "server_logs"
CORPUS = yaml.safe_load((LOGS / "index.yaml").read_text())
# Lines that patterns look for, in whole and in part, between anything else.
TELLING = [line for entry in CORPUS for line in (LOGS / entry["file"]).read_text().splitlines()]
EXIT_STATUSES = st.none() | st.integers(-(2**31), 2**31 - 1) | st.integers(-64, 255)


def quotes(cause, log):
    """Whether all that is quoted is in the log, shortened perhaps."""
    return all(line.removesuffix("...") in log for line in cause.lines)


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["file"]) for entry in CORPUS])
def test_the_cause_is_read_from_what_was_reported(entry):
    log = (LOGS / entry["file"]).read_text()
    cause = classify(log, entry["returncode"])
    assert (str(cause.kind), cause.of) == (entry["kind"], entry.get("of")), cause
    assert quotes(cause, log)
    for quoted in entry["quoted"]:
        assert any(quoted in line for line in cause.lines), cause


def test_every_log_of_the_corpus_is_in_its_index_with_a_source():
    assert sorted(entry["file"] for entry in CORPUS) == sorted(
        str(path.relative_to(LOGS)) for path in LOGS.rglob("*.log")
    )
    assert all(entry["source"].startswith("https://github.com/") for entry in CORPUS)


def test_the_corpus_has_every_kind_that_a_log_can_show():
    told = {entry["kind"] for entry in CORPUS}
    # Which its answers show, and what the Docker engine says: no server's log.
    assert told == set(CauseKind) - {CauseKind.WRONG_SERVER, CauseKind.ENGINE_DEAD, CauseKind.IMAGE}


def test_the_memory_that_ran_out_is_named_before_the_message():
    cause = classify("ValueError: No available memory for the cache blocks.\n", 1)
    assert str(cause) == "out of memory: KV cache: No available memory for the cache blocks."


@pytest.mark.parametrize(
    ("log", "of"),
    [
        pytest.param('{"State": {"OOMKilled": true, "ExitCode": 137}}\n', "container", id="state-of-the-container"),
        pytest.param("Memory cgroup out of memory: Killed process 7 (python)\n", "container", id="kernel"),
        pytest.param("Out of memory: Killed process 7 (python)\n", "host", id="whole-machine"),
    ],
)
def test_a_container_at_its_limit_is_told_from_a_machine_without_memory(log, of):
    assert classify(log, 137).of == of


@pytest.mark.parametrize(
    ("returncode", "kind", "message"),
    [
        pytest.param(137, CauseKind.KILLED, "the server was killed by SIGKILL", id="killed"),
        pytest.param(139, CauseKind.CRASH, "the server crashed with SIGSEGV", id="segmentation-fault"),
        pytest.param(132, CauseKind.CRASH, "the server crashed with SIGILL", id="illegal-instruction"),
        pytest.param(130, CauseKind.CRASH, "exited with status 130", id="status-of-its-own"),
    ],
)
def test_exit_statuses_of_shells_and_containers_are_signals(returncode, kind, message):
    cause = classify("", returncode)
    assert cause.kind is kind
    assert message in cause.message


def test_a_download_that_was_retried_does_not_hide_what_ended_the_server():
    log = "'(ReadTimeoutError(...): Read timed out.' thrown while requesting HEAD https://h/c\nRetrying in 1s [Retry 1/5].\n"
    assert classify(log + "ValueError: heads (3) must be divisible\n", 1).kind is CauseKind.BAD_ARGUMENT


def test_trouble_with_the_network_under_load_is_a_request_s_and_no_cause():
    log = "INFO:     Application startup complete.\nConnectionResetError: [Errno 104] Connection reset by peer\n"
    assert classify(log, 1).kind is CauseKind.CRASH


def test_only_what_another_configuration_avoids_is_a_finding():
    assert {kind for kind in CauseKind if kind.finding} == {CauseKind.OUT_OF_MEMORY, CauseKind.BAD_ARGUMENT}


@given(lines=st.lists(st.sampled_from(TELLING) | st.text(), max_size=20), returncode=EXIT_STATUSES)
def test_whatever_a_log_says_a_cause_is_one_line_and_quotes_it(lines, returncode):
    log = "\n".join(lines)
    cause = classify(log, returncode)
    assert len(cause.message.splitlines()) <= 1
    assert len(cause.lines) <= MAX_LINES
    assert all(len(text) <= MAX_LENGTH for text in (cause.message, *cause.lines))
    assert quotes(cause, log)


@pytest.mark.parametrize(
    "log",
    [
        pytest.param("a" * 2_000_000, id="one-line"),
        pytest.param(("a" * 99 + "\n") * 20_000, id="many-lines"),
        pytest.param("died " * 400_000, id="begins-of-a-pattern"),
        pytest.param("A.A" * 700_000, id="almost-an-exception"),
        pytest.param("(a pid=1)" * 220_000, id="prefixes"),
        pytest.param(("CUDA " * 100 + "\n") * 4_000, id="cuda"),
    ],
)
def test_the_time_that_a_log_takes_grows_with_its_length_only(log):
    begun = time.process_time()
    assert classify(log, 1).kind is CauseKind.CRASH
    assert time.process_time() - begun < 10
