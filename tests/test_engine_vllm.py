"""The vLLM engine: command lines, what is installed, why it failed, what it runs with."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_autotune.engines.engine import Address, CauseKind, Flag, Installed
from pytest_autotune.engines.installation import find_installation
from pytest_autotune.engines.registry import BUILTIN, builtin
from pytest_autotune.engines.requirements import (
    interpreter_of,
    least_download,
    missing_disk,
    missing_model,
    most_gpus,
)
from pytest_autotune.engines.validation import unknown_flags
from pytest_autotune.engines.vllm import VllmEngine
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.space import Choice, Constraint, Float, Forbidden, Integer, Space
from pytest_autotune.suite import Suite
from pytest_autotune.suite_file import load_suite
from pytest_autotune.variables import expand

LOGS = Path(__file__).parent / "data" / "vllm"
ADDRESS = Address("127.0.0.1", 8123, "chat-7f3a")
STARTED = "INFO:     Application startup complete.\n"


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


@pytest.fixture
def fake_vllm(tmp_path):
    """A package that is called vllm and answers the probe as vLLM 0.32 does: noise on stdout, flags from argparse."""
    package = tmp_path / "site" / "vllm"
    sources = {
        "__init__.py": "__version__ = '0.99.1'\nprint('Triton is installed, but')\n",
        "platforms/__init__.py": "class current_platform:\n    device_type = 'cuda'\n",
        "utils/__init__.py": "",
        "utils/argparse_utils.py": "import argparse\nclass FlexibleArgumentParser(argparse.ArgumentParser): pass\n",
        "entrypoints/__init__.py": "",
        "entrypoints/launchers/__init__.py": "",
        "entrypoints/launchers/cli_args.py": textwrap.dedent("""\
            import argparse, os
            def make_arg_parser(parser):
                with open(os.environ['ASKED'], 'a') as file:
                    file.write('x')
                parser.add_argument('model_tag', nargs='?')
                parser.add_argument('--port', type=int, default=8000)
                parser.add_argument('--max-num-seqs', type=int)
                parser.add_argument('--tensor-parallel-size', '-tp', type=int, default=1)
                parser.add_argument('--dtype', choices=['auto', 'half', None], default='auto')
                parser.add_argument('--max-lora-rank', type=int, choices=[8, 16], default=16)
                parser.add_argument('--gpu-memory-utilization', '--device-memory-utilization', type=float, default=0.9)
                parser.add_argument('--enforce-eager', action=argparse.BooleanOptionalAction, default=False)
                parser.add_argument('--headless', action='store_true')
                parser.add_argument('--middleware', nargs='+', default=set())
                parser.add_argument('--log-level', default=argparse.SUPPRESS)
                return parser
            """),
    }
    for name, source in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source)
    return {"PYTHONPATH": str(package.parent), "ASKED": str(tmp_path / "asked")}


def suite(**given):
    given.setdefault("space", Space(()))
    return Suite(**{"name": "chat", "engine": "vllm", **given})


def engine(tmp_path):
    return VllmEngine(cache_dir=tmp_path / "cache")


# --- why a server failed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "returncode", "kind", "message"),
    [
        pytest.param("unknown-flag", 2, CauseKind.BAD_ARGUMENT, "unrecognized arguments: --frobnicate", id="unknown-flag"),
        pytest.param("bad-choice", 2, CauseKind.BAD_ARGUMENT, "argument --kv-cache-dtype: invalid choice: 'fp9'", id="bad-choice"),
        pytest.param("bad-type", 2, CauseKind.BAD_ARGUMENT, "argument --max-num-seqs: invalid int value: 'many'", id="bad-type"),
        pytest.param(
            "batched-tokens",
            1,
            CauseKind.BAD_ARGUMENT,
            "SchedulerConfig: max_num_batched_tokens (4) must be greater than or equal to max_num_seqs (8).",
            id="fewer-batched-tokens-than-sequences",
        ),
        pytest.param(
            "batched-tokens-len",
            1,
            CauseKind.BAD_ARGUMENT,
            "SchedulerConfig: max_num_batched_tokens (64) is smaller than max_model_len (512).",
            id="fewer-batched-tokens-than-the-longest-sequence",
        ),
        pytest.param("model-len", 1, CauseKind.BAD_ARGUMENT, "ModelConfig: User-specified max_model_len (4096)", id="model-len"),
        pytest.param(
            "utilization-range",
            1,
            CauseKind.BAD_ARGUMENT,
            "CacheConfig: gpu_memory_utilization: Input should be less than or equal to 1",
            id="field-out-of-range",
        ),
        pytest.param(
            "tp-heads",
            1,
            CauseKind.BAD_ARGUMENT,
            "VllmConfig: Total number of attention heads (8) must be divisible by tensor parallel size (3).",
            id="heads-not-divisible",
        ),
        pytest.param("kv-space", 1, CauseKind.OUT_OF_MEMORY, "Available memory on node 0 (7.25/8.59 GiB) on kv", id="cpu-kv-space"),
        pytest.param("utilization-free", 1, CauseKind.OUT_OF_MEMORY, "Available memory on node 0 (7.27/8.59 GiB) on startup", id="cpu-utilization"),
        pytest.param("no-kv-memory", 1, CauseKind.OUT_OF_MEMORY, "Available memory on node 0 (7.25/8.59 GiB) on kv", id="cpu-nothing-left"),
        pytest.param("kv-too-small", 1, CauseKind.OUT_OF_MEMORY, "To serve at least one request with the model's max seq len (2048)", id="kv-too-small"),
        pytest.param("model-path", 1, CauseKind.MODEL, "Repo id must be in the form", id="no-such-directory"),
        pytest.param("model-hub", 1, CauseKind.MODEL, "Cannot find an appropriate cached snapshot folder", id="not-in-the-cache"),
        pytest.param("port", 1, CauseKind.PORT, "[Errno 98] Address already in use", id="port-in-use"),
        pytest.param("worker-killed", 1, CauseKind.KILLED, "a worker process of the server was killed by SIGKILL", id="worker-killed"),
        pytest.param("worker-killed", None, CauseKind.KILLED, "a worker process of the server was killed by SIGKILL", id="worker-killed-front-lives"),
        pytest.param("ready", None, CauseKind.TIMEOUT, "no answer before the deadline", id="hangs"),
        pytest.param("ready", -11, CauseKind.CRASH, "the server crashed with SIGSEGV", id="segmentation-fault"),
        pytest.param("ready", -9, CauseKind.KILLED, "the server was killed by SIGKILL", id="killed"),
        pytest.param("ready", 0, CauseKind.CRASH, "exited with status 0", id="just-ends"),
    ],
)  # fmt: skip
def test_causes_are_read_from_real_logs(log, returncode, kind, message):
    cause = VllmEngine().classify((LOGS / f"{log}.log").read_text(), returncode)
    assert cause.kind is kind
    assert message in cause.message
    assert "\n" not in cause.message
    assert len(cause.lines) <= 5
    assert not any("See root cause above" in line for line in cause.lines)


@pytest.mark.parametrize(
    ("log", "returncode", "kind", "message"),
    [
        pytest.param(
            # https://github.com/vllm-project/vllm/issues/25837
            "(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718]     raise ValueError(\n"
            "(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718] ValueError: Free memory on device (3.22/4.0 GiB) on"
            " startup is less than desired GPU memory utilization (0.9, 3.6 GiB). Decrease GPU memory utilization.\n"
            "(APIServer pid=17211) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n",
            1,
            CauseKind.OUT_OF_MEMORY,
            "Free memory on device (3.22/4.0 GiB) on startup is less than desired GPU memory utilization (0.9, 3.6 GiB)",
            id="less-free-than-desired",
        ),
        pytest.param(
            # https://github.com/vllm-project/vllm/issues/27508
            "(EngineCore_DP0 pid=8884)     logits = logits.to(torch.float32)\n"
            "(EngineCore_DP0 pid=8884) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 786.00 MiB. GPU 0 has a"
            " total capacity of 79.11 GiB of which 140.75 MiB is free.\n",
            1,
            CauseKind.OUT_OF_MEMORY,
            "CUDA out of memory. Tried to allocate 786.00 MiB.",
            id="cuda-out-of-memory-at-start",
        ),
        pytest.param(
            # https://github.com/noonghunna/club-3090/issues/58
            STARTED + "(EngineCore pid=104) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 50.00 MiB.\n"
            "(APIServer pid=1) ERROR 05-05 12:36:59 [serving.py:1173] vllm.v1.engine.exceptions.EngineDeadError: EngineCore"
            " encountered an issue. See stack trace (above) for the root cause.\n",
            None,
            CauseKind.OUT_OF_MEMORY,
            "CUDA out of memory. Tried to allocate 50.00 MiB.",
            id="cuda-out-of-memory-under-load",
        ),
        pytest.param(
            # https://github.com/vllm-project/vllm/issues/15039
            STARTED + "ERROR 03-19 10:55:18 [engine.py:158] OutOfMemoryError('CUDA out of memory. Tried to allocate 128.00 MiB.')\n",
            1,
            CauseKind.OUT_OF_MEMORY,
            "CUDA out of memory. Tried to allocate 128.00 MiB.",
            id="old-engine",
        ),
        pytest.param(
            # https://github.com/vllm-project/vllm/issues/10439
            "vllm-1  | ERROR 11-18 18:07:28 engine.py:366] ValueError: No available memory for the cache blocks. Try increasing"
            " `gpu_memory_utilization` when initializing the engine.\n",
            1,
            CauseKind.OUT_OF_MEMORY,
            "No available memory for the cache blocks.",
            id="no-memory-for-blocks",
        ),
        pytest.param(
            # https://github.com/QwenLM/Qwen3/issues/295
            "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens that can be stored in KV"
            " cache (7344). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`.\n",
            1,
            CauseKind.OUT_OF_MEMORY,
            "larger than the maximum number of tokens that can be stored in KV cache (7344)",
            id="kv-too-small-in-old-versions",
        ),
        pytest.param(
            # https://github.com/sgl-project/sglang/issues/4330
            "[2025-03-12 10:00:00 TP0] Scheduler hit an exception: Traceback (most recent call last):\n"
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\n",
            -9,
            CauseKind.OUT_OF_MEMORY,
            "Not enough memory. Please try to increase --mem-fraction-static.",
            id="sglang",
        ),
        pytest.param(
            # https://github.com/vllm-project/vllm/issues/2652
            "Traceback (most recent call last):\n"
            "ValueError: Total number of attention heads (52) must be divisible by tensor parallel size (8).\n",
            1,
            CauseKind.BAD_ARGUMENT,
            "Total number of attention heads (52) must be divisible by tensor parallel size (8).",
            id="heads-in-old-versions",
        ),
        pytest.param(
            # https://github.com/sgl-project/sglang/pull/14644
            "OSError: You are trying to access a gated repo.\nMake sure to have access to it at https://example.org/m.\n"
            "401 Client Error.\n",
            1,
            CauseKind.MODEL,
            "You are trying to access a gated repo.",
            id="gated-model",
        ),
        pytest.param("MemoryError\n", 1, CauseKind.OUT_OF_MEMORY, "MemoryError", id="host-memory"),
        pytest.param(
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
            " allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)\n",
            1,
            CauseKind.OUT_OF_MEMORY,
            "can't allocate memory: you tried to allocate 68719476736 bytes",
            id="cpu-allocator",
        ),
        pytest.param(
            "INFO 01-01 00:00:00 [x.py:1] to avoid CUDA out of memory, lower gpu_memory_utilization\n"
            "WARNING 01-01 00:00:00 [x.py:1] ValueError: not fatal\nRuntimeError: the real one\n",
            1,
            CauseKind.CRASH,
            "RuntimeError: the real one (exited with status 1)",
            id="hints-are-no-causes",
        ),
        pytest.param(
            STARTED + "ERROR 01-01 00:00:00 [serving.py:1] ValueError: this request is too long\nIndexError: the end\n",
            1,
            CauseKind.CRASH,
            "IndexError: the end (exited with status 1)",
            id="errors-of-requests-are-no-causes",
        ),
        pytest.param("", None, CauseKind.TIMEOUT, "no answer before the deadline", id="silent"),
        pytest.param("", -6, CauseKind.CRASH, "the server crashed with SIGABRT", id="abort"),
        pytest.param("", -15, CauseKind.KILLED, "the server was killed by SIGTERM", id="terminated"),
        pytest.param("", -63, CauseKind.CRASH, "the server crashed with", id="real-time-signal"),
    ],
)  # fmt: skip
def test_causes_are_read_from_public_reports(log, returncode, kind, message):
    cause = VllmEngine().classify(log, returncode)
    assert (cause.kind, message in cause.message) == (kind, True), cause


def test_only_memory_and_arguments_are_findings():
    engine = VllmEngine()
    finding = {
        name: engine.classify((LOGS / f"{name}.log").read_text(), 1).kind.finding
        for name in ("kv-too-small", "tp-heads", "port", "model-hub", "worker-killed")
    }
    assert finding == {
        "kv-too-small": True,
        "tp-heads": True,
        "port": False,
        "model-hub": False,
        "worker-killed": False,
    }


def test_a_quoted_line_is_shortened_but_its_kind_is_not_lost():
    cause = VllmEngine().classify("ValueError: " + "x" * 10_000, 1)
    assert cause.kind is CauseKind.BAD_ARGUMENT
    assert max(map(len, [cause.message, *cause.lines])) <= 400


# --- what it runs with ---------------------------------------------------------------------------------------------


def test_effective_settings_are_read_from_a_real_log():
    assert VllmEngine().effective((LOGS / "worker-killed.log").read_text()) == {
        "max-model-len": 512,
        "enforce-eager": True,
        "load-format": "dummy",
        "enable-prefix-caching": False,
        "max-num-seqs": 8,
    }


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        pytest.param("non-default args: {}", {}, id="all-defaults"),
        pytest.param("nothing of the kind", {}, id="absent"),
        pytest.param("non-default args: {'api_key': '***', 'max_num_seqs': 4}", {"max-num-seqs": 4}, id="without-reserved"),
        pytest.param(
            "non-default args: {'attention_config': AttentionConfig(backend=None, per_kind={'a': 1}), 'tensor_parallel_size': 2}",
            {"attention-config": "AttentionConfig(backend=None, per_kind={'a': 1})", "tensor-parallel-size": 2},
            id="objects-as-text",
        ),
        pytest.param(
            "non-default args: {'compilation_config': {'mode': <CompilationMode.NONE: 0>, 'sizes': [1, 2]}, 'seed': 3}",
            {"compilation-config": "{'mode': <CompilationMode.NONE: 0>, 'sizes': [1, 2]}", "seed": 3},
            id="enumerations-as-text",
        ),
        pytest.param(
            """non-default args: {'chat_template': "it's, {{ a }}", 'x': 'quote \\' and \\\\', 'y': (1, 2)}""",
            {"chat-template": "it's, {{ a }}", "x": "quote ' and \\", "y": [1, 2]},
            id="quotes-and-brackets-in-text",
        ),
    ],
)  # fmt: skip
def test_effective_settings_survive_any_value(line, settings):
    assert (
        VllmEngine().effective(f"(APIServer pid=1) INFO 01-01 00:00:00 [api_utils.py:286] {line}\nmore\n") == settings
    )


# --- what is installed ---------------------------------------------------------------------------------------------


def test_flags_are_read_from_the_installed_parser(tmp_path, fake_vllm, model):
    found = engine(tmp_path).inspect(suite(model=str(model), env=fake_vllm, gpus=0))
    assert found.version == "0.99.1"
    assert found.flags is not None
    assert found.flags["max-num-seqs"] == Flag("max-num-seqs")
    assert found.flags["dtype"] == Flag("dtype", default="auto", choices=("auto", "half"))
    assert found.flags["enforce-eager"] == Flag("enforce-eager", default=False, boolean=True, negatable=True)
    assert found.flags["middleware"] == Flag("middleware", many=True)
    assert found.flags["headless"].boolean
    assert not found.flags["headless"].negatable
    assert found.flags["device-memory-utilization"].default == 0.9
    assert found.flags["log-level"].default is None
    assert "no-enforce-eager" not in found.flags
    assert "model_tag" not in found.flags


def test_an_installation_is_asked_once_for_all_processes(tmp_path, fake_vllm):
    def ask(_):
        # An import may leave its bytecode beside the package, which is then still the same.
        env = fake_vllm | {"PYTHONDONTWRITEBYTECODE": ""}
        return find_installation(sys.executable, env=env, cache_dir=tmp_path / "cache")

    first = ask(0)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [first] * 4
    assert Path(fake_vllm["ASKED"]).read_text() == "x"
    assert list(Path(fake_vllm["PYTHONPATH"]).glob("vllm/__pycache__"))
    os.utime(Path(fake_vllm["PYTHONPATH"]) / "vllm" / "__init__.py", (1, 1))
    assert ask(0) == first
    assert Path(fake_vllm["ASKED"]).read_text() == "xx"


def test_racing_processes_leave_one_whole_cache_file(tmp_path, fake_vllm):
    script = (
        "import sys, pathlib\nfrom pytest_autotune.engines.installation import find_installation\n"
        "print(find_installation(sys.executable, env={}, cache_dir=pathlib.Path(sys.argv[1])).version)\n"
    )
    root = str(Path(__file__).parents[1])
    env = {**os.environ, **fake_vllm, "PYTHONPATH": os.pathsep.join([root, fake_vllm["PYTHONPATH"]])}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "cache")], env=env, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert [racer.communicate(timeout=60)[0].split()[-1] for racer in racers] == ["0.99.1"] * 3
    (file,) = (tmp_path / "cache").iterdir()
    assert json.loads(file.read_text())["version"] == "0.99.1"


def test_a_damaged_cache_file_is_replaced(tmp_path, fake_vllm):
    find = lambda: find_installation(sys.executable, env=fake_vllm, cache_dir=tmp_path / "cache")  # noqa: E731
    first = find()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text('{"version"')
    assert find() == first
    assert json.loads(file.read_text())["version"] == "0.99.1"


def test_an_interpreter_that_hangs_is_given_up(tmp_path, fake_vllm):
    hanging = Path(fake_vllm["PYTHONPATH"]) / "vllm" / "__init__.py"
    hanging.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(MissingRequirement, match=r"did not tell which vLLM it has within 1 s"):
        find_installation(sys.executable, env=fake_vllm, cache_dir=tmp_path / "cache", timeout_s=1)


def test_a_broken_installation_says_what_is_broken(tmp_path, fake_vllm, model):
    (Path(fake_vllm["PYTHONPATH"]) / "vllm" / "__init__.py").write_text("raise RuntimeError('no torch for you')\n")
    (said,) = engine(tmp_path).inspect(suite(model=str(model), env=fake_vllm)).missing
    assert said == f"vLLM of {sys.executable} cannot be imported: RuntimeError: no torch for you"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({}, "needs vLLM: `pip install vllm`, or set engine_python: to a Python that has it", id="no-vllm"),
        pytest.param({"engine_python": "/nowhere/python"}, "engine_python: no such interpreter: /nowhere/python", id="no-python"),
        pytest.param({"engine_python": "no-such-python-9"}, "engine_python: no such interpreter: no-such-python-9", id="not-in-path"),
        pytest.param({"engine_python": "${NOT_SET}"}, "set NOT_SET (engine_python: ${NOT_SET})", id="variable"),
        pytest.param({"env": {"HF_TOKEN": "${NOT_SET}"}}, "set NOT_SET (env.HF_TOKEN: ${NOT_SET})", id="variable-of-env"),
        pytest.param({"gpus": 8}, "needs 8 GPUs, this machine has none", id="gpus"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_sentence(tmp_path, monkeypatch, model, given, said):
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    assert said in engine(tmp_path).inspect(suite(model=str(model), **given)).missing


def test_an_interpreter_may_be_named_relative_to_the_suite_by_variable_or_by_home(tmp_path, monkeypatch):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("VENV", str(tmp_path / "venv"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "suites").mkdir()
    for named in ("../venv/bin/python", "${VENV}/bin/python", "~/venv/bin/python"):
        assert interpreter_of(suite(engine_python=named, path=tmp_path / "suites" / "chat.yaml")) == str(python)


# --- models, disk, GPUs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "said"),
    [
        pytest.param(None, "needs a model: say model: <directory or hub id>", id="none"),
        pytest.param("./model", None, id="relative-to-the-suite"),
        pytest.param("~/model", None, id="home"),
        pytest.param("${MODEL}", None, id="variable"),
        pytest.param("${NOT_SET:-./model}", None, id="default-of-a-variable"),
        pytest.param("./weights.gguf", None, id="single-file"),
        pytest.param("./empty", "model: no config.json in {tmp}/empty", id="no-config"),
        pytest.param("./nothing", "model: no such directory: {tmp}/nothing", id="no-directory"),
        pytest.param("/nowhere/m", "model: no such directory: /nowhere/m", id="absolute"),
        pytest.param("llama", "model: 'llama' is neither a directory nor a hub id like organisation/name", id="neither"),
        pytest.param("org/cached", None, id="cached"),
        pytest.param("org/absent", "model: org/absent is not in {tmp}/hub, and HF_HUB_OFFLINE is set", id="offline"),
    ],
)  # fmt: skip
def test_a_model_must_be_servable_from_here(tmp_path, monkeypatch, model, named, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    cached = tmp_path / "hub" / "models--org--cached" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text("{}")
    for name, value in {
        "HOME": tmp_path,
        "MODEL": model,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": tmp_path / "hub",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("NOT_SET", raising=False)
    given = suite(model=named, path=tmp_path / "chat.yaml")
    assert missing_model(given) == (None if said is None else said.format(tmp=tmp_path))


def test_the_hub_cache_is_where_the_hub_library_has_it(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    env = {"HF_HUB_OFFLINE": "1"}
    named = [
        missing_model(suite(model="o/m", env={**env, **extra}))
        for extra in ({}, {"XDG_CACHE_HOME": "/x"}, {"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, {"HF_HUB_CACHE": "/c"})
    ]
    places = [f"{tmp_path}/.cache/huggingface/hub", "/x/huggingface/hub", "/h/hub", "/c"]
    assert named == [f"model: o/m is not in {place}, and HF_HUB_OFFLINE is set" for place in places]


def test_a_model_to_download_needs_room(tmp_path):
    assert least_download("meta-llama/Llama-3.1-70B-Instruct") == 35e9
    assert least_download("org/name") == 0
    assert missing_disk(tmp_path / "not" / "yet", 1, what="x") is None
    said = missing_disk(tmp_path, 10**18, what="download x")
    assert said is not None
    assert said.startswith(f"needs 1000000000 GB of disk in {tmp_path} to download x, ")


def test_a_missing_variable_is_named_with_where_it_stands():
    assert expand("a ${X} $Y ${Z:-z}", key="model", environment={"X": "1", "Y": "2"}) == "a 1 $Y z"
    with pytest.raises(MissingRequirement, match=r"^set X \(model: \$\{X\}/m\)$"):
        expand("${X}/m", key="model", environment={"X": ""})


@pytest.mark.parametrize(
    ("space", "fixed", "gpus"),
    [
        pytest.param(Space(()), {}, 1, id="defaults"),
        pytest.param(
            Space((Choice("tensor-parallel-size", (1, 2, 4)),)), {"pipeline_parallel_size": 2}, 8, id="product"
        ),
        pytest.param(
            Space(
                (Choice("tensor-parallel-size", (1, 2, 4, 8)), Choice("data-parallel-size", (1, 2, 4))),
                (Constraint("tensor-parallel-size * data-parallel-size <= 8"),),
            ),
            {},
            8,
            id="constrained",
        ),
        pytest.param(
            Space((Choice("tp-size", (1, 2)), Integer("max-running-requests", 1, 100_000))), {}, 2, id="sglang"
        ),
        pytest.param(Space((Integer("tensor-parallel-size", 2, 1000),)), {}, 2, id="no-grid"),
        pytest.param(
            Space(
                (
                    Choice("mode", ("pipeline", "tensor")),
                    Choice("tensor-parallel-size", (2, 4), when=Constraint("mode == 'tensor'")),
                    Choice("pipeline-parallel-size", (2, 3), when=Constraint("mode == 'pipeline'")),
                )
            ),
            {},
            4,
            id="never-both",
        ),
        pytest.param(
            Space(
                (Choice("tensor-parallel-size", (1, 2, 4)), Choice("data-parallel-size", (1, 2))),
                forbidden=(Forbidden({"tensor-parallel-size": (4,), "data-parallel-size": (2,)}),),
            ),
            {},
            4,
            id="forbidden",
        ),
        pytest.param(
            Space(
                (
                    Float("share", 0.1, 0.9),
                    Choice("tensor-parallel-size", (2, 4)),
                    Choice("data-parallel-size", (2,), when=Constraint("share > 0.5")),
                )
            ),
            {},
            2,
            id="condition-without-a-grid",
        ),
    ],
)
def test_a_suite_needs_as_many_gpus_as_its_widest_configuration(space, fixed, gpus):
    assert most_gpus(suite(space=space, fixed=fixed)) == gpus


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 4), ("cpu", 0)])
def test_a_build_for_cpus_takes_no_gpus(tmp_path, fake_vllm, model, device, gpus):
    platforms = Path(fake_vllm["PYTHONPATH"]) / "vllm" / "platforms" / "__init__.py"
    platforms.write_text(f"class current_platform:\n    device_type = {device!r}\n")
    given = suite(model=str(model), env=fake_vllm, fixed={"tensor-parallel-size": 2})
    vllm = engine(tmp_path)
    assert vllm.gpus(given, {"pipeline-parallel-size": 2}) == gpus
    assert bool(vllm.inspect(given).missing) is (device == "cuda")


# --- command lines and settings ------------------------------------------------------------------------------------


def test_a_command_is_the_fixed_settings_overlaid_by_the_configuration(tmp_path, fake_vllm, model):
    given = suite(
        model="./model",
        path=tmp_path / "chat.yaml",
        env={**fake_vllm, "HF_HUB_OFFLINE": "1"},
        fixed={"max_num_seqs": 256, "enforce-eager": False, "middleware": ["a", "b"]},
    )
    command = engine(tmp_path).command(given, {"max-num-seqs": 64}, ADDRESS)
    assert command.argv == (
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", "chat-7f3a", "--host", "127.0.0.1", "--port", "8123"),
        *("--max-num-seqs", "64", "--no-enforce-eager", "--middleware", "a", "b"),
    )
    assert command.env == {"VLLM_SERVER_DEV_MODE": "1", **fake_vllm, "HF_HUB_OFFLINE": "1"}


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2 or shutil.which("taskset") is None, reason="needs two cores and taskset"
)
@pytest.mark.parametrize(
    ("device", "env", "confined"),
    [("cpu", {}, True), ("cpu", {"VLLM_CPU_OMP_THREADS_BIND": "0-1"}, False), ("cuda", {}, False)],
    ids=["cpu", "bound-by-the-suite", "gpu"],
)
def test_a_build_for_cpus_leaves_one_core_to_the_load_generator(tmp_path, fake_vllm, model, device, env, confined):
    platforms = Path(fake_vllm["PYTHONPATH"]) / "vllm" / "platforms" / "__init__.py"
    platforms.write_text(f"class current_platform:\n    device_type = {device!r}\n")
    argv = engine(tmp_path).command(suite(model=str(model), env={**fake_vllm, **env}), {}, ADDRESS).argv
    start = argv.index(sys.executable)
    counted = subprocess.run(
        [*argv[:start], sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(counted.stdout) == len(os.sched_getaffinity(0)) - confined


FLAGS = {
    flag.name: flag
    for flag in (
        Flag("max-num-seqs"),
        Flag("max-num-batched-tokens"),
        Flag("dtype", choices=("auto", "half")),
        Flag("max-lora-rank", choices=("8", "16")),
        Flag("enforce-eager", boolean=True, negatable=True),
        Flag("traces", choices=("model", "worker"), many=True),
        Flag("compilation-config"),
        Flag("port", reserved="the deployment says where the server listens"),
    )
}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({"fixed": {"max_num_seqs": 8}}, [], id="either-spelling"),
        pytest.param({"fixed": {"max-num-seq": 4}}, ["fixed.max-num-seq: vllm 0.32.0 has no flag 'max-num-seq' (did you mean 'max-num-seqs'?)"], id="abbreviation"),
        pytest.param({"fixed": {"zzz": 4}}, ["fixed.zzz: vllm 0.32.0 has no flag 'zzz'"], id="nothing-near"),
        pytest.param({"fixed": {"compilation-config.mode": 3}}, [], id="key-of-json"),
        pytest.param({"fixed": {"compilatio-config.mode": 3}}, ["vllm 0.32.0 has no flag 'compilatio-config.mode' (did you mean 'compilation-config'?)"], id="key-of-nothing"),
        pytest.param({"fixed": {"port": 1}}, ["fixed.port: a suite cannot set 'port': the deployment says where the server listens"], id="reserved"),
        pytest.param({"fixed": {"dtype": "haf"}}, ["fixed.dtype: 'haf' is not one of auto, half (did you mean 'half'?)"], id="choice"),
        pytest.param({"fixed": {"max-lora-rank": 16}}, [], id="number-among-choices"),
        pytest.param({"fixed": {"traces": ["model", "workr"]}}, ["fixed.traces: 'workr' is not one of model, worker (did you mean 'worker'?)"], id="choice-in-list"),
        pytest.param({"fixed": {"enforce-eager": "yes"}}, ["fixed.enforce-eager: 'yes' is not true or false, and the flag is a switch"], id="switch"),
        pytest.param({"fixed": {"dtype": None, "enforce-eager": None}}, [], id="default"),
        pytest.param(
            {"space": Space((Choice("dtype", ("auto", "fp4", "fp5")),))},
            ["parameters.dtype: 'fp4' is not one of auto, half", "parameters.dtype: 'fp5' is not one of auto, half"],
            id="parameter",
        ),
        pytest.param({"space": Space((Integer("max-num-sqs", 1, 2),))}, ["parameters.max-num-sqs: vllm 0.32.0 has no flag 'max-num-sqs' (did you mean 'max-num-seqs'?)"], id="range"),
        pytest.param(
            {"space": Space((), (Constraint("max-num-batched-tokns >= max-num-seqs"),))},
            ["vllm 0.32.0 has no flag 'max-num-batched-tokns' (did you mean 'max-num-batched-tokens'?)"],
            id="constraint",
        ),
    ],
)  # fmt: skip
def test_settings_that_the_engine_would_refuse_are_told_at_collection(given, said):
    told = [str(error) for error in unknown_flags(suite(**given), Installed("0.32.0", FLAGS))]
    assert len(told) == len(said)
    assert all(line.endswith(end) for line, end in zip(told, said, strict=True)), told


def test_an_unknown_flag_is_told_with_file_and_line(tmp_path):
    file = tmp_path / "chat.yaml"
    file.write_text(
        "name: chat\nengine: vllm\nmodel: o/m\nslo: {ttft.p90: 1s}\nparameters:\n  dtype: [auto]\n  max-num-seq: [1, 2]\n"
    )
    (error,) = unknown_flags(load_suite(file), Installed("0.32.0", FLAGS))
    assert (
        str(error)
        == f"{file}:7: parameters.max-num-seq: vllm 0.32.0 has no flag 'max-num-seq' (did you mean 'max-num-seqs'?)"
    )


def test_nothing_is_checked_against_an_engine_that_does_not_tell_its_flags():
    assert unknown_flags(suite(fixed={"anything": 1}), Installed()) == ()


# --- registry ------------------------------------------------------------------------------------------------------


def test_engines_are_found_by_name_and_imported_only_then():
    code = (
        "import sys\nimport pytest_autotune.engines.registry as registry\n"
        "assert 'pytest_autotune.engines.vllm' not in sys.modules\n"
        "print(registry.builtin('vllm').name, registry.builtin('nothing'))\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["vllm", "None"]
    assert {name: builtin(name).name for name in BUILTIN} == {name: name for name in BUILTIN}
