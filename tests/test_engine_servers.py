"""TGI, TensorRT-LLM, Ollama and Transformers: flags, command lines, GPUs, and the names that they answer to."""

import dataclasses
import sys
import textwrap

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from pytest_autotune.engines.dialects import TRTLLM as TRTLLM_DIALECT
from pytest_autotune.engines.engine import Address, CauseKind, Engine, lacking
from pytest_autotune.engines.installation import known_release
from pytest_autotune.engines.ollama import OllamaEngine
from pytest_autotune.engines.registry import BUILTIN, builtin
from pytest_autotune.engines.tgi import RESERVED as TGI_RESERVED
from pytest_autotune.engines.tgi import TgiEngine
from pytest_autotune.engines.transformers import TransformersEngine
from pytest_autotune.engines.trtllm import KNOWN, TRTLLM, TrtllmEngine
from pytest_autotune.engines.validation import unknown_flags
from pytest_autotune.reporting.command import one_line
from pytest_autotune.reporting.export import best_script
from pytest_autotune.space import Choice, Space
from pytest_autotune.suite import Suite
from pytest_autotune.suite_gpus import GpuPool
from tests.make_reports import BEST, report
from tests.make_reports import suite as reported
from tests.test_dialects import published

ADDRESS = Address("127.0.0.1", 8123, "given-7f3a")
# In the shape of clap's long help.
TGI_HELP = """\
Text Generation Launcher

Usage: text-generation-launcher [OPTIONS]

Options:
      --model-id <MODEL_ID>
          What to load

          [env: MODEL_ID=]
          [default: bigscience/bloom-560m]

      --num-shard <NUM_SHARD>
          How many

          [env: NUM_SHARD=]

      --quantize <QUANTIZE>
          How

          [env: QUANTIZE=]

          Possible values:
          - awq:              4 bits
          - bitsandbytes-nf4: 4 bits, too
          - fp8:              8 bits

      --dtype <DTYPE>
          [env: DTYPE=]
          [possible values: float16, bfloat16]

      --waiting-served-ratio <WAITING_SERVED_RATIO>
          [env: WAITING_SERVED_RATIO=]
          [default: 0.3]

      --max-batch-size <MAX_BATCH_SIZE>
          [env: MAX_BATCH_SIZE=]

      --trust-remote-code
          [env: TRUST_REMOTE_CODE=]

  -p, --port <PORT>
          [env: PORT=]
          [default: 3000]

  -h, --help
          Print help (see a summary with '-h')
"""
OLLAMA_HELP = """\
Start Ollama

Usage:
  ollama serve [flags]

Environment Variables:
      OLLAMA_DEBUG               Show additional debug information (e.g. OLLAMA_DEBUG=1)
      OLLAMA_HOST                IP Address for the ollama server (default 127.0.0.1:11434)
      OLLAMA_CONTEXT_LENGTH      Context length to use unless otherwise specified
      OLLAMA_KEEP_ALIVE          The duration that models stay loaded in memory (default "5m")
      OLLAMA_NUM_PARALLEL        Maximum number of parallel requests
      OLLAMA_FLASH_ATTENTION     Enabled flash attention
"""
CLICK = """\
class Choice:
    choices = {choices}
class Text:
    pass
class Argument:
    name, opts = 'force_model', ['force_model']
class Option:
    def __init__(self, *opts, off=(), default=None, switch=False, type=Text()):
        self.opts, self.secondary_opts, self.default, self.is_flag, self.type = list(opts), list(off), default, switch, type
class Command:
    params = [Argument(), Option('--port', default=8000), Option('--{a}', '--{b}', default=object()),
              Option('--compile', off=['--no-compile'], default=False, switch=True), Option('--kind', type=Choice()),
              Option('--help', switch=True)]
"""


@pytest.fixture
def installed(tmp_path):
    """Write a package whose command is a click command, and return the variable by which Python finds it."""

    def installed(module, *, distribution, version, spellings, ending):
        path = tmp_path / "site" / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True)
        for parent in list(path.parents)[: module.count(".")]:
            (parent / "__init__.py").touch()
        a, b = spellings
        source = CLICK.replace("{choices}", "['x', 'y']").replace("{a}", a).replace("{b}", b)
        path.write_text(source + textwrap.dedent(ending))
        mark = tmp_path / "site" / f"{distribution}-{version}.dist-info"
        mark.mkdir()
        (mark / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        return {"PYTHONPATH": str(tmp_path / "site")}

    return installed


@pytest.fixture
def program(tmp_path):
    """Write an executable that answers questions as a server's would, and return its path."""

    def program(name, answers):
        path = tmp_path / name
        cases = "\n".join(f"'{question}') cat <<'END'\n{answer}\nEND\n;;" for question, answer in answers.items())
        path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}\n*) echo "error: $*" >&2; exit 2;;\nesac\n')
        path.chmod(0o755)
        return str(path)

    return program


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"num_attention_heads": 8}')
    return str(directory)


def suite(engine, **given):
    given.setdefault("space", Space(()))
    return Suite(**{"name": "chat", "engine": engine, **given})


def problems_of(engine, given):
    return [str(error).partition(": ")[2] for error in unknown_flags(given, engine.inspect(given))]


@pytest.mark.parametrize("name", BUILTIN)
def test_every_engine_has_the_whole_contract_and_no_copy_of_what_is_not_known(name):
    engine = builtin(name)
    assert (engine.name, lacking(engine)) == (name, ())
    own = {each for kind in type(engine).__mro__[:-1] if kind is not Engine for each in vars(kind)}
    asked = ("refuses", "served", "layout", "effective")
    unknown = [engine.refuses, engine.served, engine.layout, engine.effective]
    assert all(
        each in own or method.__func__ is getattr(Engine, each) for each, method in zip(asked, unknown, strict=True)
    )
    assert engine.classify("RuntimeError: CUDA out of memory\n", 1).kind is CauseKind.OUT_OF_MEMORY


# --- TGI -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def launcher(program):
    return program("text-generation-launcher", {"--help": TGI_HELP, "--version": "text-generation-launcher 3.3.4"})


def test_tgis_launcher_tells_its_flags(launcher, model):
    found = TgiEngine().inspect(suite("tgi", command=(launcher,), model=model, gpus=0))
    assert (found.version, found.missing) == ("3.3.4", ())
    flags = found.flags
    assert (flags["waiting-served-ratio"].default, flags["port"].default) == (0.3, 3000)
    assert (flags["dtype"].choices, flags["quantize"].choices) == (
        ("float16", "bfloat16"),
        ("awq", "bitsandbytes-nf4", "fp8"),
    )
    assert [name for name, flag in flags.items() if flag.boolean] == ["trust-remote-code", "help"]
    assert (
        {name for name, flag in flags.items() if flag.reserved} == {"model-id", "port", "help"} <= TGI_RESERVED.keys()
    )


def test_tgis_settings_are_checked_and_those_of_any_engine_become_flags(launcher, model):
    engine = TgiEngine()
    given = suite("tgi", command=(launcher,), model=model, fixed={"parallelism": "tp4", "port": 1, "max-batch-sise": 2})
    assert problems_of(engine, given) == [
        "a suite cannot set 'port': the deployment says where the server listens",
        "tgi 3.3.4 has no flag 'max-batch-sise' (did you mean 'max-batch-size'?)",
    ]
    given = suite("tgi", command=(launcher,), model=model, fixed={"parallelism": "tp4", "max_sequences": 8})
    assert engine.command(given, {"trust-remote-code": True}, ADDRESS).argv == (
        *(launcher, "--model-id", model, "--hostname", "127.0.0.1", "--port", "8123"),
        *("--shard-uds-path", "/tmp/text-generation-server-8123", "--num-shard", "4", "--max-batch-size", "8"),
        "--trust-remote-code",
    )
    assert (engine.gpus(given, {}), engine.gpus(suite("tgi"), {})) == (4, 1)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dtype": "float16", "quantize": "fp8"}, "dtype cannot be used with quantize"),
        ({"num-shard": 3}, "8 attention heads cannot be shared by num-shard 3"),
        ({"num-shard": 2}, "needs 2 GPUs, this machine has none"),
    ],
)
def test_what_tgi_refuses_is_known_before(launcher, model, monkeypatch, settings, problem):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refused = TgiEngine().refuses(suite("tgi", command=(launcher,), model=model), settings)
    assert (refused.kind, refused.message) == (CauseKind.BAD_ARGUMENT, problem)


@pytest.mark.parametrize(
    ("engine", "name", "needs"),
    [
        (TgiEngine, "text-generation-launcher", "Text Generation Inference"),
        (OllamaEngine, "ollama", "Ollama"),
    ],
)
def test_an_executable_that_is_not_there_or_another_one_is_told(program, model, monkeypatch, engine, name, needs):
    monkeypatch.setenv("PATH", "")
    said, *_ = engine().inspect(suite(name, model=model)).missing
    assert said == f"needs {needs}: no such executable: {name}; put {name} into PATH, or name it as command"
    other = program("other", {"--help": "usage: other", "serve --help": "usage: other"})
    monkeypatch.undo()
    said, *_ = engine().inspect(suite(name, model=model, command=(other,))).missing
    assert said.startswith(f"{other} is no {name}: ")


# --- Ollama --------------------------------------------------------------------------------------------------------


def test_ollamas_settings_are_variables(program):
    ollama = program("ollama", {"serve --help": OLLAMA_HELP, "--version": "Warning: x\nclient version is 0.12.1"})
    engine = OllamaEngine()
    given = suite("ollama", command=(ollama,), model="qwen3:0.6b", fixed={"flash_attention": True}, env={"A": "b"})
    found = engine.inspect(given)
    assert (found.version, found.missing, found.flags.keys()) == (
        *("0.12.1", ()),
        {"debug", "host", "context-length", "keep-alive", "num-parallel", "flash-attention"},
    )
    command = engine.command(given, {"num-parallel": 4, "context-length": None}, ADDRESS)
    assert command.env == {"A": "b"}
    assert command.argv == (
        *("env", "OLLAMA_HOST=127.0.0.1:8123", "OLLAMA_KEEP_ALIVE=-1", "OLLAMA_FLASH_ATTENTION=1"),
        *("OLLAMA_NUM_PARALLEL=4", ollama, "serve"),
    )
    wrong = suite(
        "ollama", command=(ollama,), model="m", fixed={"host": "x"}, space=Space((Choice("num-paralel", (1,)),))
    )
    assert problems_of(engine, wrong) == [
        "ollama 0.12.1 has no flag 'num-paralel' (did you mean 'num-parallel'?)",
        "a suite cannot set 'host': the deployment says where the server listens",
    ]


# --- TensorRT-LLM and Transformers ---------------------------------------------------------------------------------


def test_trtllms_command_is_asked_for_its_flags(installed, model, tmp_path):
    spellings = ("tensor_parallel_size", "tp_size")
    env = installed(
        "tensorrt_llm.commands.serve",
        distribution="tensorrt_llm",
        version="1.2.1",
        spellings=spellings,
        ending="serve = Command",
    )
    engine = TrtllmEngine(cache_dir=tmp_path / "cache")
    given = suite("trtllm", model=model, env=env, fixed={"tp-size": 2, "compile": False, "kind": "x"})
    found = engine.inspect(given)
    assert (found.version, found.flags.keys()) == (
        "1.2.1",
        {"port", "tensor-parallel-size", "tp-size", "compile", "kind"},
    )
    assert (found.flags["compile"].negatable, found.flags["kind"].choices) == (True, ("x", "y"))
    assert engine.command(given, {}, ADDRESS).argv == (
        *(sys.executable, "-m", "tensorrt_llm.commands.serve", "serve", model, "--host", "127.0.0.1", "--port", "8123"),
        *("--tp_size", "2", "--no-compile", "--kind", "x"),
    )
    assert engine.gpus(given, {}) == 2


def test_a_trtllm_that_cannot_be_imported_answers_by_the_table_of_its_release(installed, model, tmp_path):
    env = installed(
        "tensorrt_llm.commands.serve",
        distribution="tensorrt_llm",
        version="1.2.1",
        spellings=("a", "b"),
        ending="import no_driver_here",
    )
    found = TrtllmEngine(cache_dir=tmp_path / "cache").inspect(suite("trtllm", model=model, env=env))
    assert (found.version, found.flags["max-num-tokens"].name) == ("1.2.1", "max_num_tokens")
    assert found.flags["extra-llm-api-options"].reserved.startswith("settings belong into the suite")


def test_trtllms_table_has_what_its_dialect_writes():
    flags = known_release(TRTLLM, KNOWN).flags
    named = {*TRTLLM_DIALECT.renamed.values(), *TRTLLM_DIALECT.spellings, *TRTLLM_DIALECT.spellings.values()}
    assert named <= flags.keys()
    assert published("trtllm").keys() - flags.keys() == {"kv-cache-dtype"}, "which came with 1.3"


@hypothesis_given(tp=st.integers(1, 8), ep=st.integers(1, 8))
def test_trtllms_experts_are_spread_evenly(tp, ep):
    problem = TrtllmEngine().contradiction({"tensor-parallel-size": tp, "ep-size": ep})
    assert bool(problem) is (tp % ep != 0)


def test_transformers_command_is_asked_for_its_flags(installed, model, tmp_path):
    env = installed(
        "transformers.cli.transformers",
        distribution="transformers",
        version="5.24.0",
        spellings=("device", "device-map"),
        ending="class app:\n    commands = {'serve': Command}\n",
    )
    engine = TransformersEngine(cache_dir=tmp_path / "cache")
    given = suite("transformers", model=model, env=env, fixed={"compile": True})
    found = engine.inspect(given)
    assert (found.version, found.missing, found.flags["port"].default) == ("5.24.0", (), 8000)
    assert engine.command(given, {"device": "cpu"}, ADDRESS).argv == (
        *(sys.executable, "-m", "transformers.cli.transformers", "serve", model, "--host", "127.0.0.1"),
        *("--port", "8123", "--compile", "--device", "cpu"),
    )


@pytest.mark.parametrize(
    ("pretended", "settings", "gpus"), [(2, {}, 1), (2, {"device": "cpu"}, 0), (0, {}, 0)], ids=["one", "off", "none"]
)
def test_transformers_and_ollama_take_a_gpu_where_there_is_one(monkeypatch, pretended, settings, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    given = suite("transformers")
    given = given.model_copy(update={"pool": GpuPool(pretended=pretended)})
    assert TransformersEngine().gpus(given, settings) == gpus
    assert OllamaEngine().gpus(given, {}) == min(1, pretended)
    assert TransformersEngine().gpus(suite("transformers", gpus=3), settings) == 3


# --- Names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "model", "listed"),
    [
        ("tgi", "org/name", "org/name"),
        ("transformers", "/models/tiny", "/models/tiny"),
        ("trtllm", "org/name", "org/name"),
        ("trtllm", "{directory}", "model"),
        ("ollama", "qwen3", "qwen3:latest"),
        ("ollama", "hub.org:443/qwen3", "hub.org:443/qwen3:latest"),
        ("ollama", "qwen3:0.6b", "qwen3:0.6b"),
    ],
)
def test_a_server_that_takes_no_name_is_asked_for_its_models(model, engine, listed, tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    assert builtin(engine).abilities.own_name(model.replace("{directory}", str(directory))) == listed


def test_an_export_keeps_the_model_and_moves_the_address():
    argv = ("env", "OLLAMA_HOST=127.0.0.1:41234", "OLLAMA_NUM_PARALLEL=4", "/usr/bin/ollama", "serve")
    of = report(dataclasses.replace(BEST, argv=argv), of=reported(engine="ollama", model="qwen3"))
    script = best_script(of, of.selection.best)
    assert 'HOST="${HOST:-127.0.0.1}"\nPORT="${PORT:-8000}"' in script
    assert script.endswith(
        'exec env \\\n  OLLAMA_HOST="$HOST:$PORT" \\\n  OLLAMA_NUM_PARALLEL=4 \\\n  /usr/bin/ollama \\\n  serve\n'
    )
    assert one_line(of, argv) == "env OLLAMA_HOST=127.0.0.1:8000 OLLAMA_NUM_PARALLEL=4 /usr/bin/ollama serve"
    argv = ("python3", "-m", "transformers.cli.transformers", "serve", "llama-x7f3", "--port", "41234")
    of = report(dataclasses.replace(BEST, argv=argv), of=reported(engine="transformers", model="llama-x7f3"))
    assert one_line(of, argv).endswith("serve llama-x7f3 --port 8000")
