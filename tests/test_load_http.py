"""The load generator against servers that speak HTTP in unusual ways, over real sockets."""

from __future__ import annotations

import resource

import pytest

from pytest_autotune.errors import BenchmarkError
from tests.load_servers import EVENTS, OK, chunked, load, scripted, with_length

__all__ = ["scripted"]


@pytest.mark.parametrize(
    ("script", "reused"),
    [
        pytest.param([with_length()], True, id="content-length"),
        pytest.param([chunked(EVENTS)], True, id="one chunk"),
        pytest.param(
            [chunked(*(EVENTS[n : n + 7] for n in range(0, len(EVENTS), 7)))], True, id="chunks across events"
        ),
        pytest.param([chunked(EVENTS, extension=b";x=y")], True, id="chunk extension"),
        pytest.param([chunked(EVENTS.replace(b"\n", b"\r\n"))], True, id="carriage returns"),
        pytest.param(
            [chunked(EVENTS)[n : n + 3] for n in range(0, len(chunked(EVENTS)), 3)], True, id="three bytes a write"
        ),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n", with_length()], True, id="100 Continue"),
        pytest.param([with_length(fields=b"connection: close\r\n"), None], False, id="connection: close"),
        pytest.param([OK + b"\r\n" + EVENTS, None], False, id="until the end of the connection"),
        pytest.param([with_length(), None], False, id="closed without saying so"),
        pytest.param([(OK + b"\r\n" + EVENTS).replace(b"1.1", b"1.0"), None], False, id="HTTP/1.0"),
    ],
)
def test_every_framing_of_an_answer_is_read(scripted, script, reused):
    server = scripted(*script)
    measurement = load(server.url)
    assert len(measurement.samples) > 2
    if script[-1:] != [None] or not script[0].endswith(EVENTS) or b"content-length" not in script[0]:
        assert not measurement.errors
    good = [sample for sample in measurement.samples if sample.error is None]
    assert {(sample.prompt_tokens, sample.output_tokens) for sample in good} == {(5, 2)}
    assert (server.connections == 2) is reused


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        pytest.param([b"SSH-2.0-OpenSSH_9.9\r\n"], "malformed", id="not HTTP"),
        pytest.param([OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n"], "malformed", id="bad chunk"),
        pytest.param([with_length(b'{"choices": [{"text": "all at once"}]}')], "malformed", id="no stream"),
        pytest.param([with_length(b"")], "empty", id="no body"),
        pytest.param(
            [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"], "malformed", id="101"
        ),
        pytest.param([b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"], "http-302", id="redirect"),
        pytest.param([b"HTTP/1.1 404 Not Found\r\n\r\nsorry", None], "http-404", id="404 until the end"),
        pytest.param([with_length()[:-20], None], "cut", id="cut inside the usage"),
        pytest.param([OK + b"\r\n", None], "cut", id="closed after the head"),
        pytest.param([None], "closed", id="closed at once"),
        pytest.param([b"HTTP/1.1 20"], "timeout", id="hangs inside the status"),
    ],
)
def test_broken_answers_are_failures_with_a_kind(scripted, script, kind):
    if kind == "cut" and script[0] == with_length()[:-20]:
        script = [with_length().replace(b'"length"', b"null")[:-20], None]
    measurement = load(scripted(*script).url, request_timeout_s=0.2 if kind == "timeout" else 10.0)
    assert set(measurement.errors) == {kind}
    assert all(sample.error == kind for sample in measurement.samples)


def test_prompts_on_the_wire_are_distinct(scripted):
    server = scripted(chunked(EVENTS))
    load(server.url, 3)
    prompts = [body["prompt"] for body in server.bodies]
    assert len(prompts) > 10
    assert len(set(prompts)) == len(prompts)
    assert {len(prompt.split()) for prompt in prompts} == {8}


def test_a_prompt_larger_than_the_socket_buffers_is_sent_whole(scripted):
    server = scripted(chunked(EVENTS))
    measurement = load(server.url, 1, prompt_tokens=500_000, duration_s=0.2, request_timeout_s=20.0)
    assert not measurement.errors
    assert {len(body["prompt"].split()) for body in server.bodies} == {500_000}
    assert all(sample.first_s >= sample.sent_s for sample in measurement.samples)


def test_more_streams_than_open_files_are_refused_with_the_remedy(scripted):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(BenchmarkError, match=r"concurrency=\d+ needs \d+ open files and the limit is .*ulimit -n"):
        load(scripted().url, limits[1], workers=1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "it must be http://host"),
        ("http://", "it must be http://host"),
        ("http://127.0.0.1:99999", "check the host and port"),
        ("http://no-such-host.invalid:80", "check the host and port"),
    ],
)
def test_a_url_that_cannot_be_loaded_is_refused(url, message):
    with pytest.raises(BenchmarkError, match=message):
        load(url)


def test_a_name_with_several_addresses_is_tried_until_one_answers(scripted):
    server = scripted(chunked(EVENTS))
    measurement = load(server.url.replace("127.0.0.1", "localhost"))
    assert measurement.samples
    assert not measurement.errors


def test_warm_up_requests_are_in_no_figure(scripted):
    measurement = load(scripted(chunked(EVENTS)).url, warmup_s=0.3, duration_s=0.2)
    assert measurement.warmup_requests > 0
    assert all(sample.end_s >= 0 and sample.sent_s < 0.2 for sample in measurement.samples)
    assert measurement.window_s == pytest.approx(0.2)
