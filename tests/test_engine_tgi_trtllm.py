"""Text Generation Inference and TensorRT-LLM: flags, command lines, GPUs, the names that their servers go by."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pytest_autotune.engines.engine import Address, Flag, lacking
from pytest_autotune.engines.installation import known_release
from pytest_autotune.engines.registry import builtin
from pytest_autotune.engines.tgi import TgiEngine, flags_in
from pytest_autotune.engines.trtllm import RESERVED, TRTLLM, TrtllmEngine
from pytest_autotune.engines.validation import unknown_flags
from pytest_autotune.space import Choice, Space
from pytest_autotune.suite import Suite

DATA = Path(__file__).parent / "data"
HELP = DATA / "tgi" / "help.txt"  # of the published page those flags that differ in kind, without their texts
ADDRESS = Address("127.0.0.1", 8123, "chat-7f3a")
LAUNCHER = f"""\
#!{sys.executable}
import os, sys
said = sys.argv[1:]
if said == ["--help"]:
    print(open({str(HELP)!r}).read())
elif said == ["--version"]:
    print("text-generation-launcher 3.3.6")
else:
    told = dict(zip(said[::2], said[1::2]))
    of = ["--served-model-name", told["--model-id"], "--host", told["--hostname"], "--port", told["--port"]]
    of += ["--max-num-seqs", told["--max-batch-size"], "--time-scale", "0.1"]
    os.execv(sys.executable, [sys.executable, "-m", "pytest_autotune.engines.sim", *of])
"""


@pytest.fixture
def launcher(tmp_path):
    """A launcher that tells the published flags, and starts the embedded server."""
    path = tmp_path / "text-generation-launcher"
    path.write_text(LAUNCHER)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"num_attention_heads": 32}')
    return str(directory)


def suite(engine, **given):
    given.setdefault("space", Space(()))
    return Suite(**{"name": "chat", "engine": engine, **given})


@pytest.mark.parametrize("name", ["tgi", "trtllm"])
def test_they_are_whole_engines(name):
    assert lacking(builtin(name)) == ()


# --- Text Generation Inference -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flag",
    [
        Flag("model-id", "bigscience/bloom-560m"),
        Flag("sharded", boolean=True, valued=True),
        Flag("num-shard"),
        Flag("quantize", choices=("awq", "bitsandbytes-nf4", "fp8")),
        Flag("dtype", choices=("float16", "bfloat16")),
        Flag("trust-remote-code", boolean=True),
        Flag("max-concurrent-requests", 128),
        Flag("waiting-served-ratio", 0.3),
        Flag("port", 3000),
        Flag("help", boolean=True),
    ],
    ids=lambda flag: flag.name,
)
def test_the_launchers_flags_are_read_from_its_help(flag):
    assert flags_in(HELP.read_text())[flag.name] == flag


def test_its_settings_are_checked(launcher, model):
    fixed = {"max-batch-sizes": 1, "port": 1, "dtype": "fp64", "quantize": "fp8"}
    given = suite("tgi", command=(launcher,), model=model, fixed=fixed)
    installed = TgiEngine().inspect(given)
    assert installed.version == "3.3.6"
    assert [str(error).partition(": ")[2] for error in unknown_flags(given, installed)] == [
        "tgi 3.3.6 has no flag 'max-batch-sizes' (did you mean 'max-batch-size'?)",
        "a suite cannot set 'port': the deployment says where the server listens",
        "'fp64' is not one of float16, bfloat16",
    ]


def test_its_command_says_how_many_shards(launcher, model):
    given = suite("tgi", command=(launcher,), model=model, fixed={"max_sequences": 8, "sharded": None})
    start = (launcher, "--model-id", model, "--hostname", "127.0.0.1", "--port", "8123")
    assert TgiEngine().command(given, {}, ADDRESS).argv == (*start, "--max-batch-size", "8")
    given = suite("tgi", command=(launcher,), model=model, fixed={"max_sequences": 8})
    assert TgiEngine().command(given, {}, ADDRESS).argv == (*start, "--num-shard", "1", "--max-batch-size", "8")
    told = TgiEngine().command(given, {"parallelism": "tp2"}, ADDRESS).argv
    assert told[len(start) :] == ("--num-shard", "2", "--max-batch-size", "8")
    assert TgiEngine().gpus(given, {"parallelism": "tp2"}) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num-shard": 3}, "32 attention heads cannot be shared by num-shard 3"),
        ({"dtype": "float16", "quantize": "fp8"}, "dtype cannot be used with quantize"),
        ({"num-shard": 4}, "needs 4 GPUs, this machine has none"),
    ],
)
def test_what_cannot_start_is_refused(model, monkeypatch, settings, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refused = TgiEngine().refuses(suite("tgi", model=model), settings)
    assert refused.message == message


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/no/launcher", "needs Text Generation Inference: no such executable: /no/launcher"),
        ("/bin/echo", "/bin/echo is no text-generation-launcher: its --help names no --model-id"),
    ],
)
def test_what_is_no_launcher_is_told(model, command, said):
    assert said in TgiEngine().inspect(suite("tgi", command=(command,), model=model)).missing[0]


def test_a_launcher_is_tuned_by_the_name_of_its_model(project, launcher, model):
    project.suite(
        f"""\
name: tgi
engine: tgi
command: ['{launcher}']
model: {model}
gpus: {{pretend: 1}}
parameters: {{max_batch_size: [2, 16]}}
load: {{prompt_tokens: 64, output_tokens: 8, concurrency: [2], duration: 200ms, warmup: 0s}}
slo: {{ttft.p90: 5s}}
search: {{strategy: grid, defaults: false}}
"""
    )
    result = project.run("suites", "--autotune")
    assert result.ret == 0, result.stdout.str()
    (best,) = (project.path / ".autotune").glob("*/tgi/best.json")
    assert json.loads(best.read_text())["best"]["argv"][1:3] == ["--model-id", model]
    assert f"--model-id \\\n  {model} \\\n" in best.with_name("best.sh").read_text()


# --- TensorRT-LLM --------------------------------------------------------------------------------------------------

SERVE = """\
class Parameter:
    def __init__(self, *opts, default=None, choices=(), is_flag=False):
        self.opts, self.default, self.is_flag = opts, default, is_flag
        self.type = type('Kind', (), {'choices': choices})
class serve:
    params = [
        Parameter('model'), Parameter('--host', default='localhost'), Parameter('--port', default=8000),
        Parameter('--tensor_parallel_size', '--tp_size', default=1), Parameter('--max_batch_size', default=2048),
        Parameter('--backend', default='pytorch', choices=('pytorch', 'tensorrt')),
        Parameter('--enable_chunked_prefill', default=False, is_flag=True),
    ]
"""


@pytest.fixture
def trtllm(tmp_path):
    """The engine, and the variable by which its package is found: click's options, in the shape of release 1.3."""
    site = tmp_path / "site"
    commands = site / "tensorrt_llm" / "commands"
    commands.mkdir(parents=True)
    for package in (commands, commands.parent):
        (package / "__init__.py").write_text("")
    (commands / "serve.py").write_text(SERVE)
    mark = site / "tensorrt_llm-1.3.0.dist-info"
    mark.mkdir()
    (mark / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt-llm\nVersion: 1.3.0\n")
    return TrtllmEngine(cache_dir=tmp_path / "cache"), {"PYTHONPATH": str(site)}


def test_its_command_is_asked_and_its_flags_are_spelled_with_underscores(trtllm, model):
    engine, env = trtllm
    given = suite("trtllm", model=model, env=env, fixed={"parallelism": "tp2", "enable-chunked-prefill": True})
    flags = engine.inspect(given).flags
    assert (flags["backend"].choices, flags["tp-size"].default) == (("pytorch", "tensorrt"), 1)
    assert {name for name, flag in flags.items() if flag.reserved} == {"host", "port"}
    assert engine.command(given, {"max_sequences": 64}, ADDRESS).argv == (
        *(sys.executable, "-m", "tensorrt_llm.commands.serve", "serve", model, "--host", "127.0.0.1", "--port", "8123"),
        *("--tp_size", "2", "--max_batch_size", "64", "--enable_chunked_prefill"),
    )
    assert engine.gpus(given, {}) == 2


def test_one_that_cannot_be_imported_answers_by_the_table_of_its_release(trtllm, model):
    engine, env = trtllm
    (Path(env["PYTHONPATH"]) / "tensorrt_llm" / "commands" / "serve.py").write_text("import no_mpi_here\n")
    found = engine.inspect(suite("trtllm", model=model, env=env))
    assert (found.version, found.flags["kv-cache-dtype"].choices) == ("1.3.0", ("auto", "fp8", "nvfp4"))


def test_the_table_has_every_flag_that_is_reserved_and_that_neutral_settings_become():
    flags = known_release(TRTLLM, "1.3.0").flags
    assert RESERVED.keys() <= flags.keys()
    published = json.loads((DATA / "engine_flags.json").read_text())["trtllm"]["flags"]
    assert {name: list(flags[name].choices) for name in published} == published


@pytest.mark.parametrize(("model", "name"), [("/models/tiny", "tiny"), ("org/tiny", "org/tiny")])
def test_a_server_is_asked_for_the_name_that_it_lists(model, name):
    assert TrtllmEngine.abilities.own_name(suite("trtllm", model=model)) == name


def test_more_gpus_than_there_are_are_refused(trtllm, model, monkeypatch):
    engine, env = trtllm
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    given = suite("trtllm", model=model, env=env, space=Space((Choice("tp_size", (2, 4)),)))
    assert engine.refuses(given, {"tp_size": 4}).message == "needs 4 GPUs, this machine has none"
    assert engine.inspect(given).missing == ("needs 2 GPUs, this machine has none",)
