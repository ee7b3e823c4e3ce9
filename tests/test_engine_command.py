"""Servers by command template, and servers that are already running."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pytest_autotune.engines.command import CommandEngine
from pytest_autotune.engines.endpoint import EndpointEngine, listed_model
from pytest_autotune.engines.engine import Address, CauseKind
from pytest_autotune.errors import MissingRequirement, SuiteError
from pytest_autotune.space import Space
from pytest_autotune.suite import LoadBlock, Suite
from pytest_autotune.suite_file import load_suite

ADDRESS = Address("127.0.0.1", 8123, "chat-7f3a")
SGLANG = (
    *("{python}", "-m", "sglang.launch_server", "--model-path", "{model}", "--served-model-name", "{model_name}"),
    *("--host", "{host}", "--port", "{port}", "{flags}"),
)


def suite(**given):
    given.setdefault("space", Space(()))
    return Suite(**{"name": "chat", "engine": "command", "model": "org/model", **given})


def argv(**given):
    configuration = given.pop("configuration", {})
    return CommandEngine().command(suite(**given), configuration, ADDRESS).argv


def test_a_template_is_filled_in():
    assert argv(
        command=SGLANG,
        fixed={"mem-fraction-static": 0.9, "enable-metrics": True, "disable-radix-cache": False},
        configuration={"mem_fraction_static": 0.8},
    ) == (
        *(
            sys.executable,
            "-m",
            "sglang.launch_server",
            "--model-path",
            "org/model",
            "--served-model-name",
            "chat-7f3a",
        ),
        *("--host", "127.0.0.1", "--port", "8123", "--mem-fraction-static", "0.8", "--enable-metrics"),
    )


@pytest.mark.parametrize("executable", ["only-in-the-image", "./serve", "{python}"])
def test_what_a_container_starts_is_looked_up_in_its_image(executable):
    boxed = suite(deploy="docker", model=None, command=(executable, "-m", "only_in_the_image", "{port}"))
    assert CommandEngine().inspect(boxed).missing == ()
    first, *_ = CommandEngine().command(boxed, {}, ADDRESS).argv
    assert first == executable.replace("{python}", "python3")


@pytest.mark.parametrize(
    ("command", "settings", "filled"),
    [
        pytest.param(("s", "-p{port}", "-c={ctx-size}"), {"ctx-size": 4096}, ("s", "-p8123", "-c=4096"), id="inside-an-element"),
        pytest.param(("s", "{port}", "{ctx_size}"), {"ctx-size": 4096}, ("s", "8123", "4096"), id="either-spelling"),
        pytest.param(("s", "{port}", "{flags}", "-b", "{b}"), {"a": 1, "b": "2"}, ("s", "8123", "--a", "1", "-b", "2"), id="flags-are-the-others"),
        pytest.param(("s", "{port}", "{flags}"), {}, ("s", "8123"), id="no-others"),
        pytest.param(("s", "{port}", "{x}"), {"x": {"a": [1, True]}}, ("s", "8123", '{"a":[1,true]}'), id="json"),
        pytest.param(("s", "{port}", '{"a": {"b": 1}}'), {}, ("s", "8123", '{"a": {"b": 1}}'), id="literal-json"),
        pytest.param(("s", "{port}", "{x}"), {"x": "; rm -rf {port} ${HOME} $(id)"}, ("s", "8123", "; rm -rf {port} ${HOME} $(id)"), id="values-are-not-templates"),
        pytest.param(("s", "{port}", "${WHERE}/x", "$5"), {}, ("s", "8123", "/there/x", "$5"), id="variables"),
    ],
)  # fmt: skip
def test_placeholders_become_parts_of_one_element(monkeypatch, command, settings, filled):
    monkeypatch.setenv("WHERE", "/there")
    assert argv(command=command, configuration=settings) == filled


def test_the_environment_of_the_suite_is_handed_over(monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cret")
    given = suite(command=("s", "{port}"), env={"A": "1", "HF_TOKEN": "${TOKEN}"})
    assert CommandEngine().command(given, {}, ADDRESS).env == {"A": "1", "HF_TOKEN": "s3cret"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param("[s, '{port}', 'x{flags}']", "{flags} becomes any number of arguments; it cannot be a part of 'x{flags}'", id="flags-in-an-element"),
        pytest.param("[s, '{prot}', '{port}', '{flags}']", "unknown placeholder {prot} (did you mean '{port}'?)", id="unknown"),
        pytest.param("[s, '{port}']", "command: has neither {a} nor {flags}", id="settings-that-go-nowhere"),
        pytest.param("['{python}', '${VENV}/x', '{port}', '{a}']", None, id="whole"),
    ],
)  # fmt: skip
def test_a_wrong_template_is_told_when_the_suite_is_loaded(tmp_path, command, said):
    file = tmp_path / "chat.yaml"
    file.write_text(f"name: chat\nengine: command\ncommand: {command}\nslo: {{ttft.p90: 1s}}\nfixed: {{a: 1}}\n")
    if said is None:
        assert CommandEngine().inspect(load_suite(file)).flags is None
        return
    with pytest.raises(SuiteError) as raised:
        load_suite(file)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({"command": ("{python}", "-m", "http.server", "{port}")}, (), id="here"),
        pytest.param({"command": ("sh", "{port}")}, (), id="in-path"),
        pytest.param({"command": ("no-such-server-9", "{port}")}, ("command: no such executable: no-such-server-9",), id="not-in-path"),
        pytest.param({"command": ("./run.sh", "{port}")}, (), id="relative-to-the-suite"),
        pytest.param({"command": ("./walk.sh", "{port}")}, ("command: no such executable: ./walk.sh",), id="not-beside-the-suite"),
        pytest.param(
            {"command": ("{python}", "-m", "no_such_engine.serve", "{port}")},
            ("needs no_such_engine: `pip install no_such_engine`, or set engine_python: to a Python that has it",),
            id="module",
        ),
        pytest.param({"command": ("{python}", "{port}"), "engine_python": "/nowhere/python"}, ("engine_python: no such interpreter: /nowhere/python",), id="interpreter"),
        pytest.param({"command": ("${NOT_SET}/serve", "{port}")}, ("set NOT_SET (command: ${NOT_SET}/serve)",), id="variable"),
        pytest.param({"command": ("sh", "{port}", "{model}"), "model": "./none"}, ("model: no such directory: {tmp}/none",), id="model"),
        pytest.param({"command": ("{binary}", "{port}"), "fixed": {"binary": "sh"}}, (), id="executable-is-a-parameter"),
        pytest.param({"command": ("sh", "{port}"), "gpus": 2}, ("needs 2 GPUs, this machine has none",), id="gpus-said"),
        pytest.param({"command": ("sh", "{port}", "{flags}"), "fixed": {"tp-size": 2}}, ("needs 2 GPUs, this machine has none",), id="gpus-by-settings"),
        pytest.param({"command": ("sh", "{port}", "{flags}"), "fixed": {"threads": 2}}, (), id="no-gpus"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_sentence(tmp_path, monkeypatch, given, said):
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    found = CommandEngine().inspect(suite(path=tmp_path / "chat.yaml", **given))
    assert found.missing == tuple(sentence.replace("{tmp}", str(tmp_path)) for sentence in said)
    assert found.flags is None


@pytest.mark.parametrize(
    ("given", "configuration", "gpus"),
    [
        pytest.param({}, {}, 0, id="none"),
        pytest.param({}, {"tp-size": 4, "dp-size": 2}, 8, id="by-settings"),
        pytest.param({"fixed": {"tp": 2}}, {}, 2, id="by-fixed-settings"),
        pytest.param({"gpus": 1}, {"tp-size": 4}, 1, id="as-said"),
    ],
)
def test_gpus_are_what_the_suite_says_else_the_parallel_sizes(given, configuration, gpus):
    assert CommandEngine().gpus(suite(command=SGLANG, **given), configuration) == gpus


def test_failures_of_unknown_servers_are_classified_like_any_other():
    cause = CommandEngine().classify("OSError: [Errno 98] Address already in use\n", 1)
    assert cause.kind is CauseKind.PORT
    assert CommandEngine().effective("anything") == {}


@pytest.fixture
def endpoint():
    """A server that lists the models it is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Authorization"))
            body = json.dumps({"data": [{"id": name} for name in models]}).encode()
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    models, asked = ["org/model"], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", models, asked
        server.shutdown()
        thread.join()


def running(url, **given):
    return Suite(
        **{"name": "chat", "engine": "endpoint", "deploy": "endpoint", "space": Space(()), "url": url, **given}
    )


def test_a_running_server_is_asked_for_its_model(endpoint):
    url, models, _ = endpoint
    assert EndpointEngine().inspect(running(url)).missing == ()
    assert listed_model(running(f"{url}/v1/")) == "org/model"
    assert listed_model(running(url, model="org/model")) == "org/model"
    models.append("other")
    assert listed_model(running(url, model_name="other", model="org/model")) == "other"
    assert EndpointEngine().inspect(running(url)).missing == (
        f"say model_name: which of org/model, other at {url} is meant",
    )
    assert EndpointEngine().inspect(running(url, model="othr")).missing == (
        f"{url} does not serve 'othr' (did you mean 'other'?): it lists org/model, other",
    )


def test_it_is_asked_with_the_key_of_the_load(endpoint, monkeypatch):
    url, _, asked = endpoint
    monkeypatch.setenv("OUR_KEY", "sesame-open")
    assert listed_model(running(url, load=LoadBlock(api_key="${OUR_KEY}"))) == "org/model"
    assert asked == ["Bearer sesame-open"]


def test_a_server_that_does_not_answer_is_missing():
    (said,) = EndpointEngine().inspect(running("http://127.0.0.1:9")).missing
    assert said.startswith("no server lists its models at http://127.0.0.1:9/v1/models: ")


def test_a_server_that_lists_nothing_is_missing(endpoint):
    url, _, _ = endpoint
    with pytest.raises(MissingRequirement, match="no server lists its models"):
        listed_model(running(f"{url}/elsewhere"))


def test_a_running_server_has_a_url():
    with pytest.raises(SuiteError, match="does not begin with http://"):
        EndpointEngine().inspect(running("localhost:8000"))


def test_a_running_server_is_never_started():
    with pytest.raises(SuiteError, match="starts no server"):
        EndpointEngine().command(running("http://127.0.0.1:9"), {}, ADDRESS)
