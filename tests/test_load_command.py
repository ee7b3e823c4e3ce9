"""``python -m pytest_autotune load`` against the embedded server, from outside."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import loadcommand
from tests.loadcommand import QUICK, load, read
from tests.simserver import sim_server

GENERATED = "vllm:generation_tokens_total"


@pytest.fixture(scope="module")
def server():
    with sim_server() as running:
        running.url = f"http://127.0.0.1:{running.port}"
        yield running


@pytest.fixture
def nowhere():
    """A URL that nothing listens at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_levels_are_measured_printed_and_written(server, tmp_path):
    status, output, said = load(
        "--url", server.url, "--concurrency", "1,4", *QUICK, "--slo", "e2e.p99<=60s", "--json", str(tmp_path / "a.json")
    )
    assert (status, said) == (0, "")
    headline, prompts, *lines = output.splitlines()
    assert prompts == "prompts: a word is a token, and the server adds 0 to a prompt"
    assert re.fullmatch(rf"loading m at {server.url}: 2 levels, about 2.4 s, seed \d+", headline)
    assert [line.split(":")[0] for line in lines[:2]] == ["concurrency=1", "concurrency=4"]
    assert [line.split()[0] for line in lines[3:6]] == ["level", "c1", "c4"]
    assert [line.split()[-1] for line in lines[4:6]] == ["compliant", "compliant"]
    others = [line for line in lines[6:] if ": not steady: " not in line]  # as a busy machine is
    assert others == [f"written: {tmp_path / 'a.json'}"]
    document = read(tmp_path / "a.json")
    assert [batch["concurrency"] for batch in document["batches"]] == [1, 4]
    for batch in document["batches"]:
        assert 0 < batch["ttft"]["p50"] <= batch["ttft"]["p99"] < 10
        assert {"mean", "p50", "p99"} <= batch["tpot"].keys() & batch["itl"].keys() & batch["e2e"].keys()
        assert batch["output_throughput"] > 0
        assert batch["requests"] > 0
        assert batch["failed"] == 0
    assert document["target"]["model"] == "m"
    assert document["run"]["interrupted"] is False
    assert document["environment"]["python"]


def test_a_missed_limit_is_exit_status_1_and_one_line(server):
    status, output, _ = load("--url", server.url, "--concurrency", "2", *QUICK, "--slo", "ttft.p90<=1us,error_rate<=1%")
    assert status == 1
    assert re.search(r"^concurrency=2: SLO missed: ttft\.p90: \S+ ms > 0\.001 ms \(\+\d+ %\)$", output, re.MULTILINE)
    assert "error_rate" not in output


def test_equal_seeds_send_equal_requests(server, tmp_path):
    seeds = []
    for name in ("a", "b"):
        arguments = ("--url", server.url, "--concurrency", "1", *QUICK, "--seed", "7", "--json", str(tmp_path / name))
        assert load(*arguments)[0] == 0
        seeds.append(read(tmp_path / name)["batches"][0]["seed"])
    assert seeds[0] == seeds[1]


def test_chat_is_loaded_with_headers_and_a_key_that_nobody_sees(server, tmp_path):
    arguments = ("--url", f"{server.url}/v1", "--api", "chat", "--concurrency", "1", *QUICK, "--model", "m")
    status, output, said = load(
        *arguments,
        "--header",
        "x-team: blue",
        "--json",
        str(tmp_path / "a.json"),
        env={"PYTEST_AUTOTUNE_API_KEY": "sk-hush-hush-hush"},
    )
    assert status == 0, said
    assert "sk-hush" not in output + said + (tmp_path / "a.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "0"], "--concurrency: 0 is too small; write a whole number of at least 1"),
        (["--concurency", "1"], "--concurency is not an option of load (did you mean '--concurrency'?)"),
        (["--concurrency"], "argument --concurrency: expected one argument"),
        (
            [],
            "no load level: give one of --concurrency, --rate, --burst, --stages, --replay, e.g. --concurrency 1,8,64",
        ),
        (["--concurrency", "1", "--json", "/proc/no/such.json"], "--json: /proc/no/such.json cannot be written"),
    ],
)
def test_a_wrong_option_is_exit_status_4_and_one_line(server, arguments, message):
    status, output, said = load("--url", server.url, *arguments)
    assert (status, output) == (4, "")
    assert message in said
    assert said.count("\n") == 1


def test_an_unreachable_server_is_exit_status_4(nowhere):
    status, output, said = load("--url", nowhere, "--concurrency", "1")
    assert (status, output) == (4, "")
    assert said == (
        f"pytest_autotune load: {nowhere} cannot be reached: connection refused; "
        "start the server or correct the address\n"
    )


def test_a_level_without_an_answer_is_exit_status_3(server):
    status, output, _ = load("--url", server.url, "--model", "unknown", "--concurrency", "1", *QUICK)
    assert status == 3
    assert re.search(r"requests failed: http-404 \d+; check --url, --api and --model$", output, re.MULTILINE)


def test_levels_after_the_end_of_the_server_are_not_measured(tmp_path):
    with sim_server() as doomed:
        url = f"http://127.0.0.1:{doomed.port}"
        process = loadcommand.start(
            "load", "--url", url, "--concurrency", "1,2,3,4,5,6", *QUICK, "--json", str(tmp_path / "a.json")
        )
        with process:
            for line in process.stdout:
                if line.startswith("concurrency=1:"):
                    doomed.process.kill()
                    doomed.process.wait(timeout=20)
                    break
            output, said = process.communicate(timeout=120)
    assert process.returncode == 3
    assert f"{url} cannot be reached" in said
    assert "c1 " in output
    assert read(tmp_path / "a.json")["batches"][0]["concurrency"] == 1
    assert not re.search(r"^c6 ", output, re.MULTILINE)  # a late kill lets two or three levels pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_measured(server, tmp_path, number):
    arguments = ["--url", server.url, "--concurrency", "1,2", *QUICK, "--json", str(tmp_path / "a.json")]
    arguments[arguments.index("--duration") + 1] = "6s"
    process = loadcommand.start("load", *arguments, start_new_session=True)
    with process:
        for line in process.stdout:
            if line.startswith("concurrency=1:"):
                break
        before, deadline = server.metric(GENERATED), time.monotonic() + 60
        while server.metric(GENERATED) == before:  # until the next level begins, whose warm-up takes 200 ms
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.5)  # in the window, of which four seconds are left for a machine that is late
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: workers hear it too
        else:
            process.send_signal(number)
        output, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "interrupted: waits for the requests in flight" in said
    assert re.search(r"^concurrency=2: stopped after \d\.\d+ s: interrupted$", output, re.MULTILINE)
    document = read(tmp_path / "a.json")
    assert document["run"]["interrupted"] is True
    assert [batch["concurrency"] for batch in document["batches"]] == [1, 2]
    assert 0 < document["batches"][1]["window_s"] < 6
    assert document["batches"][1]["requests"] > 0


def test_an_interrupt_during_warm_up_ends_at_once(server, tmp_path):
    arguments = ["--url", server.url, "--concurrency", "1", "--warmup", "60s", "--json", str(tmp_path / "a.json")]
    process = loadcommand.start("load", *arguments)
    with process:
        process.stdout.readline()
        process.stdout.readline()
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 2
    assert read(tmp_path / "a.json")["batches"] == []


def test_a_terminal_gets_a_live_table_and_then_the_final_one(server):
    main, sub = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "40"}
    process = loadcommand.start(
        "load", "--url", server.url, "--concurrency", "1,2", *QUICK, stdout=sub, stderr=sub, env=environment
    )
    os.close(sub)
    shown = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # the other side is closed: the process has ended
            break
        shown += piece
    os.close(main)
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"c2 .* waits", text)
    assert re.search(r"c1 .* (warm-up|measure) \d+/1 s", text)
    # Notes may follow the table, say of a load that a busy machine kept from being steady.
    last = [line for line in text.rstrip().splitlines() if not line.startswith("concurrency=")][-1]
    assert last.split()[0] == "c2"
    assert not re.search(r"concurrency=\d+: \d+ requests", text)


def test_the_module_is_a_command_with_help():
    command = [sys.executable, "-m", "pytest_autotune", "load", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "--concurrency N[,N...]" in shown
    assert "exit status: 0 every limit held" in " ".join(shown.split())
