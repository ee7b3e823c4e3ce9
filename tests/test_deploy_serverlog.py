"""The log file of a deployment."""

from __future__ import annotations

import os

import pytest

from pytest_autotune.deploy import serverlog
from pytest_autotune.deploy.serverlog import open_log


@pytest.fixture
def log(tmp_path):
    opened = open_log(tmp_path / "server.log", "attempt 2")
    yield opened
    os.close(opened.fd)


def test_a_note_comes_first_and_is_not_the_servers_text(log):
    os.write(log.fd, b"hello\n")
    assert log.path.read_text() == "[autotune] attempt 2\nhello\n"
    assert log.text() == "hello\n"


def test_earlier_logs_are_kept_in_order(tmp_path):
    for number in range(3):
        opened = open_log(tmp_path / "server.log")
        os.write(opened.fd, str(number).encode())
        os.close(opened.fd)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "server.1.log": "0",
        "server.2.log": "1",
        "server.log": "2",
    }


@pytest.mark.parametrize(
    ("written", "lines", "expected"),
    [
        pytest.param(b"a\nb\nc\n", 2, "b\nc", id="last lines"),
        pytest.param(b"a\nb", 1, "b", id="unfinished line"),
        pytest.param(b"x\n10%\r20%\r30%\ndone\n", 2, "30%\ndone", id="progress bar"),
        pytest.param(b"a\r\nb\r\n", 2, "a\nb", id="line ends of another system"),
        pytest.param(b"ok \xff\n", 1, "ok \ufffd", id="not UTF-8"),
    ],
)
def test_the_tail_shows_what_a_terminal_would(log, written, lines, expected):
    os.write(log.fd, written)
    assert log.tail(lines) == expected


def test_a_very_long_log_is_read_from_both_ends(log, monkeypatch):
    monkeypatch.setattr(serverlog, "_MOST_BYTES", 20)
    os.write(log.fd, b"beginning-" + b"x" * 1000 + b"-and-end..")
    assert log.text() == "beginning-\n[... cut ...]\n-and-end.."
