"""llama.cpp: what llama-server prints of itself, command lines, what is refused, why it failed, what it runs with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pytest_autotune.engines.engine import Address, CauseKind, Flag
from pytest_autotune.engines.llamacpp import RESERVED, LlamaCppEngine
from pytest_autotune.engines.llamacpp_help import devices_in, flags_in, version_in
from pytest_autotune.engines.registry import builtin
from pytest_autotune.engines.validation import unknown_flags
from pytest_autotune.errors import MissingRequirement, SuiteError
from pytest_autotune.notation import read_parameters
from pytest_autotune.presets.library import find_preset
from pytest_autotune.space import Space
from pytest_autotune.suite import Suite
from pytest_autotune.suite_file import load_suite
from tests.documents import ROOT

DATA = Path(__file__).parent / "data" / "llamacpp"  # what a llama-server of October 2026 printed
HELP = (DATA / "help.txt").read_text()
ADDRESS = Address("127.0.0.1", 8123, "chat-7f3a")


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF\x03\x00")
    return file


@pytest.fixture
def server(tmp_path):
    """Make an executable that prints of itself what a real one does."""

    def server(*, devices="  (none)\n", text=HELP, name="llama-server"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        listed = f"Available devices:\n{devices}"
        script.write_text(
            "#!/bin/sh\ncase $1 in\n"
            f"--help) printf %s {shlex.quote(text)} ;;\n"
            f"--list-devices) printf %s {shlex.quote(listed)} ;;\n"
            "--version) echo 'version: 0.1.0-dev (build 1, commit 7e4c0a9)' >&2 ;;\n"
            "esac\n"
        )
        script.chmod(0o755)
        return str(script)

    return server


def suite(**given):
    given.setdefault("space", Space(()))
    return Suite(**{"name": "chat", "engine": "llamacpp", **given})


# --- what it prints of itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flag",
    [
        Flag("ctx-size", default=0),
        Flag("parallel", default=-1),
        Flag("temp", default=0.8),
        Flag("n-gpu-layers", default="auto"),
        Flag("gpu-layers", default="auto"),
        Flag("host"),
        Flag("flash-attn", choices=("on", "off", "auto")),
        Flag("split-mode", choices=("none", "layer", "row", "tensor")),
        Flag("cpu-strict", default=0, choices=("0", "1")),
        Flag(
            "cache-type-v",
            default="f16",
            choices=("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"),
        ),
        Flag("cont-batching", boolean=True, negatable=True),
        Flag("kv-unified", boolean=True, negatable=True),
        Flag("metrics", boolean=True),
        Flag("no-host", boolean=True),
    ],
    ids=lambda flag: flag.name,
)
def test_a_flag_is_read_from_the_help_of_a_real_server(flag):
    assert flags_in(HELP)[flag.name] == flag


def test_every_line_that_begins_with_a_dash_gives_a_flag():
    flags = flags_in(HELP)
    told = [line[:40] for line in HELP.splitlines() if line.startswith("-") and line[38:40].strip() == ""]
    named = {name for line in told for name in re.findall(r"(?:^|[ ,])--([a-z][\w.-]+)", line)}
    lost = {name for name in named if name not in flags and name.removeprefix("no-") not in flags}
    assert (len(flags), len(named) > 150, lost) == (292, True, set())
    assert RESERVED.keys() <= flags.keys()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("version: 0.1.0-dev (build 1, commit 7e4c0a9)\nbuilt with GNU\n", "0.1.0-dev+7e4c0a9"),
        ("register_backend: CPU\nversion: 4589 (eb7cf15a)\n", "4589+eb7cf15a"),
        ("version: 4589\n", "4589"),
        ("what?\n", ""),
    ],
)
def test_a_version_is_read(text, version):
    assert version_in(text) == version


@pytest.mark.parametrize(
    ("listed", "count"),
    [
        ("Available devices:\n  (none)\n", 0),
        ("Available devices:\n  CUDA0: NVIDIA H100 (81000 MiB, 80000 MiB free)\n  CUDA1: NVIDIA H100 (1 MiB)\n", 2),
        ("error: invalid argument: --list-devices\n", 0),
    ],
)
def test_devices_are_counted(listed, count):
    assert devices_in(listed) == count


# --- looking for it ------------------------------------------------------------------------------------------------


def test_a_server_and_its_model_are_found(server, model):
    found = LlamaCppEngine().inspect(suite(command=(server(),), model=str(model)))
    assert (found.version, found.missing) == ("0.1.0-dev+7e4c0a9", ())
    assert found.flags["port"].reserved == "the deployment says where the server listens"


def test_without_a_command_it_is_the_one_in_path(server, model, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(server()).parent), prepend=":")
    given = suite(model=str(model))
    assert LlamaCppEngine().inspect(given).missing == ()
    assert LlamaCppEngine().command(given, {}, ADDRESS).argv[0] == "llama-server"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({"command": ("no-such-server-9",)}, "needs llama.cpp: no such executable: no-such-server-9; put llama-server into PATH, or name it as command", id="no-server"),
        pytest.param({"command": ("${NOT_SET}/llama-server",)}, "set NOT_SET (command: ${NOT_SET}/llama-server)", id="variable"),
        pytest.param({"model": "./none.gguf"}, "model: no such file: {tmp}/none.gguf", id="no-model"),
        pytest.param({"model": "org/name"}, "model: no such file: org/name", id="hub-id"),
        pytest.param({"model": "."}, "model: {tmp} is a directory: name one of its .gguf files (tiny.gguf)", id="directory"),
        pytest.param({"model": "./bin/llama-server"}, "model: {tmp}/bin/llama-server is no GGUF file: it begins with b'#!/b', not b'GGUF'", id="another-file"),
        pytest.param({"model": None}, "needs a model: say model: <file>.gguf", id="none"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_sentence(tmp_path, monkeypatch, server, model, given, said):
    monkeypatch.delenv("NOT_SET", raising=False)
    given = {"command": (server(),), "model": "tiny.gguf", "path": tmp_path / "chat.yaml", **given}
    assert LlamaCppEngine().inspect(suite(**given)).missing == (said.replace("{tmp}", str(tmp_path)),)


def test_another_program_is_not_taken_for_it(server, model):
    other = server(text="usage: serve [--port PORT]\n", name="serve")
    with pytest.raises(MissingRequirement, match=r"serve is no llama-server: its --help names no --ctx-size"):
        LlamaCppEngine().command(suite(command=(other,), model=str(model)), {}, ADDRESS)


def test_gpus_that_the_suite_says_must_be_here_unless_it_can_use_none(server, model, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    given = {"model": str(model), "gpus": 2}
    assert LlamaCppEngine().inspect(suite(command=(server(),), **given)).missing == ()
    two = server(devices="  CUDA0: a (1 MiB)\n  CUDA1: b (1 MiB)\n", name="llama-gpu")
    said = LlamaCppEngine().inspect(suite(command=(two,), **given)).missing
    assert said == ("needs 2 GPUs, this machine has none",)


@pytest.mark.parametrize(
    ("devices", "settings", "gpus"),
    [
        (0, {}, 0),
        (2, {}, 2),
        (2, {"n-gpu-layers": 0}, 0),
        (2, {"gpu_layers": 0}, 0),
        (2, {"split-mode": "none"}, 1),
        (2, {"device": "CUDA1"}, 1),
        (2, {"device": "CUDA0,CUDA1"}, 2),
        (2, {"device": "none"}, 0),
    ],
)
def test_gpus_are_those_that_layers_go_to(server, model, devices, settings, gpus):
    listed = "".join(f"  CUDA{at}: a (1 MiB)\n" for at in range(devices)) or "  (none)\n"
    given = suite(command=(server(devices=listed),), model=str(model))
    assert LlamaCppEngine().gpus(given, settings) == gpus


# --- settings ------------------------------------------------------------------------------------------------------


def test_a_command_is_the_fixed_settings_overlaid_by_the_configuration(tmp_path, server, model):
    start = ("env", "-u", "DISPLAY", server())
    given = suite(
        command=start,
        model="tiny.gguf",
        path=tmp_path / "chat.yaml",
        env={"LLAMA_LOG_COLORS": "off"},
        fixed={"ctx_size": 2048, "cont-batching": False, "mlock": True, "cache-ram": -1, "threads": None},
    )
    command = LlamaCppEngine().command(given, {"ctx-size": 4096, "flash-attn": "on"}, ADDRESS)
    assert command.argv == (
        *start,
        *("--model", str(model), "--alias", "chat-7f3a", "--host", "127.0.0.1", "--port", "8123", "--metrics"),
        *("--ctx-size", "4096", "--no-cont-batching", "--mlock", "--cache-ram", "-1", "--flash-attn", "on"),
    )
    assert command.env == {"LLAMA_LOG_COLORS": "off"}


def test_its_metrics_can_be_left_off(server, model):
    given = suite(command=(server(),), model=str(model), fixed={"metrics": False})
    assert "--metrics" not in LlamaCppEngine().command(given, {}, ADDRESS).argv


@pytest.mark.parametrize(
    ("fixed", "said"),
    [
        pytest.param({"ctx_size": 1, "flash-attn": "on", "cont-batching": False}, [], id="right"),
        pytest.param({"ctx-sise": 1}, ["has no flag 'ctx-sise' (did you mean 'ctx-size'?)"], id="typo"),
        pytest.param({"flash-attn": True}, ["True is not one of on, off, auto"], id="no-switch"),
        pytest.param({"cont-batching": "on"}, ["'on' is not true or false, and the flag is a switch"], id="switch"),
        pytest.param({"cache-type-k": "fp8"}, ["'fp8' is not one of f32, f16, bf16, q8_0"], id="choice"),
        pytest.param({"alias": "x"}, ["a suite cannot set 'alias': every deployment has a name of its own"], id="ours"),
        pytest.param({"hf-repo": "a/b"}, ["a suite cannot set 'hf-repo': say model: at the top"], id="model"),
    ],
)
def test_settings_that_it_would_refuse_are_told_at_collection(server, model, fixed, said):
    given = suite(command=(server(),), model=str(model), fixed=fixed)
    told = [str(error) for error in unknown_flags(given, LlamaCppEngine().inspect(given))]
    assert len(told) == len(said)
    assert all(part.lower() in line.lower() for line, part in zip(told, said, strict=True)), told


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"parallel": 256, "cache-type-v": "f16", "flash-attn": "off"}, None),
        ({"cache_type_v": "q8_0"}, None),
        ({"parallel": 257}, "parallel 257 is more than 256 sequences"),
        ({"cache_type_v": "q8_0", "flash-attn": "off"}, "cache-type-v q8_0 is quantized, which needs flash-attn"),
        ({"cache-type-v": "iq4_nl", "flash_attn": "off"}, "cache-type-v iq4_nl is quantized, which needs flash-attn"),
    ],
)
def test_what_is_certain_not_to_start_is_refused(settings, said):
    refused = LlamaCppEngine().refuses(suite(), settings)
    assert (refused and refused.message) == said
    assert refused is None or refused.kind is CauseKind.BAD_ARGUMENT


# --- logs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "kind", "message"),
    [
        ("unknown-flag", CauseKind.BAD_ARGUMENT, "error: invalid argument: --frobnicate"),
        ("bad-type", CauseKind.BAD_ARGUMENT, 'error while handling argument "--parallel"'),
        ("bad-choice", CauseKind.BAD_ARGUMENT, "Unsupported cache type: fp9"),
        ("quantized-v", CauseKind.BAD_ARGUMENT, "quantized V cache requires flash_attn to be enabled"),
        ("sequences", CauseKind.BAD_ARGUMENT, "n_seq_max must be <= 256"),
        ("kv-memory", CauseKind.OUT_OF_MEMORY, "failed to allocate CPU buffer of size 819200000000"),
        ("no-model", CauseKind.MODEL, "failed to open GGUF file 'none.gguf' (No such file or directory)"),
        ("broken-model", CauseKind.MODEL, "gguf_init_from_"),
        ("port", CauseKind.PORT, "couldn't bind HTTP server socket"),
    ],
)
def test_causes_are_read_from_real_logs(log, kind, message):
    cause = LlamaCppEngine().classify((DATA / f"{log}.log").read_text(), 1)
    assert (cause.kind, message in cause.message) == (kind, True), cause


def test_effective_settings_are_read_from_a_real_log():
    assert LlamaCppEngine().effective((DATA / "ready.log").read_text()) == {
        "parallel": 2,
        "threads": 1,
        "ctx-size": 2048,
        "kv-unified": False,
    }
    shared = "srv load_model: initializing, n_slots = 4, n_ctx_slot = 4096, kv_unified = 'true'\n"
    assert LlamaCppEngine().effective(shared) == {"parallel": 4, "ctx-size": 4096, "kv-unified": True}
    assert LlamaCppEngine().effective("nothing\n") == {}


# --- in suites -----------------------------------------------------------------------------------------------------


def test_a_suite_names_what_starts_it_and_no_more(tmp_path):
    head = "name: chat\nengine: llamacpp\nmodel: m.gguf\nslo: {ttft.p90: 1s}\n"
    (tmp_path / "good.yaml").write_text(f"{head}command: [taskset, -c, '0', ./llama-server]\n")
    assert load_suite(tmp_path / "good.yaml").command == ("taskset", "-c", "0", "./llama-server")
    (tmp_path / "bad.yaml").write_text(f"{head}command: [llama-server, --port, '{{port}}']\n")
    with pytest.raises(
        SuiteError, match=r"'llamacpp' adds its arguments itself; name what starts it, without '\{port\}'"
    ):
        load_suite(tmp_path / "bad.yaml")
    (tmp_path / "none.yaml").write_text("name: chat\nengine: llamacpp\nslo: {ttft.p90: 1s}\n")
    with pytest.raises(SuiteError, match=r"'llamacpp' needs model:"):
        load_suite(tmp_path / "none.yaml")


def test_the_shipped_suite_and_preset_are_ones_that_a_real_server_understands(monkeypatch, server, model):
    monkeypatch.setenv("PYTEST_AUTOTUNE_LLAMA_SERVER", server())
    monkeypatch.setenv("AUTOTUNE_TINY_GGUF", str(model))
    shipped = load_suite(ROOT / "suites" / "llamacpp_cpu.yaml")
    engine = builtin("llamacpp")
    installed = engine.inspect(shipped)
    assert (installed.missing, unknown_flags(shipped, installed)) == ((), ())
    configurations = list(shipped.configurations())
    assert len(configurations) == 13  # with the engine's defaults
    assert sum(engine.refuses(shipped, each) is not None for each in configurations) == 3
    quick = read_parameters(find_preset("parameters", "llamacpp-quick", beside=None).content)
    assert unknown_flags(shipped.model_copy(update={"space": Space(quick)}), installed) == ()
