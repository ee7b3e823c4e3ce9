"""Engines that are Python packages, SGLang and llama-cpp-python's server: flags, command lines, GPUs, logs."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from pytest_autotune.engines.engine import Address, CauseKind
from pytest_autotune.engines.installation import VLLM, known_release
from pytest_autotune.engines.llama_cpp_python import LlamaCppPythonEngine
from pytest_autotune.engines.sglang import KNOWN, RESERVED, SGLANG, SglangEngine
from pytest_autotune.engines.validation import unknown_flags
from pytest_autotune.notation import read_parameters
from pytest_autotune.presets.library import all_presets
from pytest_autotune.space import Choice, Space
from pytest_autotune.suite import Suite

DATA = Path(__file__).parent / "data"
ADDRESS = Address("127.0.0.1", 8123, "chat-7f3a")

SGLANG_SOURCES = {  # what the probe asks of SGLang, in the shape of release 0.5
    "sglang/__init__.py": "",
    "sglang/srt/__init__.py": "",
    "sglang/srt/server_args.py": """\
        class ServerArgs:
            @staticmethod
            def add_cli_args(parser):
                parser.add_argument('--model-path', '--model', required=True)
                parser.add_argument('--port', type=int, default=30000)
                parser.add_argument('--tensor-parallel-size', '--tp-size', type=int, default=1)
                parser.add_argument('--data-parallel-size', '--dp-size', type=int, default=1)
                parser.add_argument('--mem-fraction-static', type=float)
                parser.add_argument('--enable-dp-attention', action='store_true')
                parser.add_argument('--dtype', choices=['auto', 'half'], default='auto')
                parser.add_argument('--cuda-graph-bs', type=int, nargs='+')
        """,
}
LLAMA_SOURCES = {  # its command line is made of pydantic's fields, which these stand for
    "llama_cpp/__init__.py": "__version__ = '0.3.36'\ndef llama_supports_gpu_offload():\n    return {gpu}\n",
    "llama_cpp/server/__init__.py": "",
    "llama_cpp/server/settings.py": """\
        import typing
        class Field:
            def __init__(self, annotation, default=None, required=False):
                self.annotation, self.default, self.required = annotation, default, required
            def is_required(self):
                return self.required
        class Settings:
            model_fields = {
                'model': Field(str, required=True), 'n_ctx': Field(int, 2048), 'n_gpu_layers': Field(int, 0),
                'flash_attn': Field(bool, False), 'tensor_split': Field(typing.Optional[list]),
                'cache_type': Field(typing.Literal['ram', 'disk'], 'ram'),
            }
        """,
    "llama_cpp/server/cli.py": """\
        def _parse_bool_arg(text):
            return text == 'true'
        def add_args_from_model(parser, model):
            kinds = {'n_ctx': int, 'n_gpu_layers': int, 'flash_attn': _parse_bool_arg}
            for name in model.model_fields:
                nargs = '*' if name == 'tensor_split' else None
                parser.add_argument(f'--{name}', type=kinds.get(name, str), nargs=nargs)
        """,
}


@pytest.fixture
def installed(tmp_path):
    """Write packages, with the mark of a distribution each, and return the variable by which Python finds them."""

    def installed(sources, *, distribution, version, **filled):
        site = tmp_path / "site"
        for name, source in sources.items():
            text = textwrap.dedent(source)
            for placeholder, value in filled.items():
                text = text.replace("{" + placeholder + "}", str(value))
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)
        mark = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        mark.mkdir()
        (mark / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        return {"PYTHONPATH": str(site)}

    return installed


@pytest.fixture
def sglang(installed, tmp_path):
    env = installed(SGLANG_SOURCES, distribution="sglang", version="0.5.99")
    return SglangEngine(cache_dir=tmp_path / "cache"), env


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return str(directory)


def suite(engine, **given):
    given.setdefault("space", Space(()))
    return Suite(**{"name": "chat", "engine": engine, **given})


# --- SGLang --------------------------------------------------------------------------------------------------------


def test_sglang_is_asked_for_its_flags(sglang, model):
    engine, env = sglang
    found = engine.inspect(suite("sglang", model=model, env=env, gpus=1))
    assert found.version == "0.5.99"
    assert {name for name, flag in found.flags.items() if flag.reserved} == {"model-path", "model", "port"}
    assert (found.flags["cuda-graph-bs"].many, found.flags["dtype"].choices) == (True, ("auto", "half"))
    assert found.flags["enable-dp-attention"].boolean


def test_an_sglang_that_cannot_be_imported_answers_by_the_table_of_its_release(sglang, model):
    engine, env = sglang
    (Path(env["PYTHONPATH"]) / "sglang" / "srt" / "server_args.py").write_text("import no_kernels_here\n")
    found = engine.inspect(suite("sglang", model=model, env=env))
    assert (found.version, len(found.flags) > 500) == ("0.5.99", True)
    assert found.flags["chunked-prefill-size"].reserved == ""


def test_one_of_another_release_says_why_it_cannot_be_imported(installed, tmp_path, model):
    env = installed(SGLANG_SOURCES, distribution="sglang", version="0.4.6")
    (Path(env["PYTHONPATH"]) / "sglang" / "srt" / "server_args.py").write_text("import no_kernels_here\n")
    said, *_ = SglangEngine(cache_dir=tmp_path / "cache").inspect(suite("sglang", model=model, env=env)).missing
    assert (
        said == f"SGLang of {sys.executable} cannot be imported: ModuleNotFoundError: No module named 'no_kernels_here'"
    )


def test_without_sglang_the_remedy_is_told(tmp_path, model):
    said, *_ = SglangEngine(cache_dir=tmp_path / "cache").inspect(suite("sglang", model=model)).missing
    assert said == "needs SGLang: `pip install sglang`, or set engine_python: to a Python that has it"


def test_a_table_is_of_a_release():
    assert known_release(SGLANG, "0.5.1").version == "0.5.1"
    assert known_release(SGLANG, "0.4.1") is known_release(SGLANG, "") is known_release(VLLM, "0.5.1") is None


def test_the_table_has_every_flag_that_is_reserved_and_that_presets_set():
    flags = known_release(SGLANG, KNOWN).flags
    assert RESERVED.keys() <= flags.keys()
    presets = [preset for preset in all_presets(beside=None) if preset.engine == "sglang"]
    assert len(presets) == 2
    told = {
        preset.name: [
            parameter.name
            for parameter in read_parameters(preset.content)
            if parameter.name not in flags
            or any(
                str(value) not in flags[parameter.name].choices
                for value in parameter.values
                if flags[parameter.name].choices
            )
        ]
        for preset in presets
    }
    assert told == {preset.name: [] for preset in presets}


def test_sglangs_command(sglang, model):
    engine, env = sglang
    given = suite("sglang", model=model, env=env, fixed={"mem_fraction_static": 0.8, "cuda-graph-bs": [1, 2]})
    command = engine.command(given, {"mem-fraction-static": 0.9, "enable-dp-attention": False}, ADDRESS)
    assert command.argv == (
        *(sys.executable, "-m", "sglang.launch_server", "--model-path", model, "--served-model-name", "chat-7f3a"),
        *("--host", "127.0.0.1", "--port", "8123", "--mem-fraction-static", "0.9", "--cuda-graph-bs", "1", "2"),
    )
    assert command.env == env


SIZES = st.integers(1, 8)


@hypothesis_given(tp=SIZES, pp=SIZES, dp=SIZES, shared=st.booleans())
def test_attentions_data_parallelism_takes_no_gpus_and_must_divide(tp, pp, dp, shared):
    settings = {"tensor-parallel-size": tp, "pp-size": pp, "dp_size": dp, "enable_dp_attention": shared}
    engine, given = SglangEngine(), suite("sglang", engine_python="/no/python")
    assert engine.gpus(given, settings) == tp * pp * (1 if shared else dp)
    broken = engine.contradiction({name.replace("_", "-"): value for name, value in settings.items()})
    assert bool(broken) is (shared and tp % dp != 0)


def test_more_gpus_than_there_are_are_refused(sglang, model, monkeypatch):
    engine, env = sglang
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refused = engine.refuses(suite("sglang", model=model, env=env), {"tp-size": 4})
    assert (refused.kind, refused.message) == (CauseKind.BAD_ARGUMENT, "needs 4 GPUs, this machine has none")
    parameters = Space((Choice("dp-size", (2, 8)),))
    given = suite("sglang", model=model, env=env, space=parameters, fixed={"tp-size": 8, "enable-dp-attention": True})
    assert engine.inspect(given).missing == ()
    found = engine.inspect(suite("sglang", model=model, env=env, space=parameters))
    assert found.missing == ("needs 2 GPUs, this machine has none",)


@pytest.mark.parametrize(
    "line",
    [
        (
            "[2026-10-02 10:00:00] server_args={'model_path': 'm', 'dtype': 'auto', 'tp_size': 2, 'port': 30000,"
            " 'chunked_prefill_size': 8192, 'enable_metrics': False, 'disable_radix_cache': True, 'odd': 1, 'quantization': None}"
        ),
        (
            "[2025-05-01 10:00:00] server_args=ServerArgs(model_path='m', dtype='auto', tp_size=2, port=30000,"
            " chunked_prefill_size=8192, enable_metrics=False, disable_radix_cache=True, odd=1, quantization=None)"
        ),
    ],
    ids=["mapping", "repr"],
)
def test_what_sglang_made_of_its_flags_is_read_from_its_log(line):
    found = SglangEngine().effective(f"before\n{line}\nafter\n")
    assert found == {"tp-size": 2, "chunked-prefill-size": 8192, "disable-radix-cache": True}
    assert SglangEngine().effective("nothing\n") == {}


# --- llama-cpp-python ----------------------------------------------------------------------------------------------


@pytest.fixture
def llama(installed, tmp_path):
    def llama(*, gpu=False):
        env = installed(LLAMA_SOURCES, distribution="llama-cpp-python", version="0.3.36", gpu=gpu)
        return LlamaCppPythonEngine(cache_dir=tmp_path / "cache"), env

    return llama


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF\x03\x00")
    return str(file)


def test_the_switches_of_its_server_are_written_with_a_value_and_names_with_underscores(llama, weights):
    engine, env = llama()
    given = suite("llama-cpp-python", model=weights, env=env, fixed={"flash-attn": True, "tensor-split": [1, 2]})
    found = engine.inspect(given)
    assert (found.version, found.missing) == ("0.3.36", ())
    assert (found.flags["n-ctx"].default, found.flags["cache-type"].choices) == (2048, ("ram", "disk"))
    assert engine.command(given, {"n-ctx": 4096}, ADDRESS).argv == (
        *(sys.executable, "-m", "llama_cpp.server", "--model", weights, "--model_alias", "chat-7f3a"),
        *(
            "--host",
            "127.0.0.1",
            "--port",
            "8123",
            "--flash_attn",
            "true",
            "--tensor_split",
            "1",
            "2",
            "--n_ctx",
            "4096",
        ),
    )


def test_its_settings_are_checked(llama, weights):
    engine, env = llama()
    fixed = {"flash-attn": "on", "n-contexts": 1, "model": "x", "cache-type": "tape"}
    given = suite("llama-cpp-python", model=weights, env=env, fixed=fixed)
    assert [str(error).partition(": ")[2] for error in unknown_flags(given, engine.inspect(given))] == [
        "'on' is not true or false, and the flag is a switch",
        "llama-cpp-python 0.3.36 has no flag 'n-contexts' (did you mean 'n-ctx'?)",
        "a suite cannot set 'model': say model: at the top of the suite, a .gguf file",
        "'tape' is not one of ram, disk",
    ]


@pytest.mark.parametrize(
    ("gpu", "settings", "gpus"),
    [(False, {"n-gpu-layers": -1}, 0), (True, {}, 0), (True, {"n_gpu_layers": -1}, 1), (True, {"n_gpu_layers": 0}, 0)],
)
def test_layers_on_a_gpu_take_one(llama, weights, gpu, settings, gpus):
    engine, env = llama(gpu=gpu)
    assert engine.gpus(suite("llama-cpp-python", model=weights, env=env), settings) == gpus


@pytest.mark.parametrize(
    ("log", "kind", "message"),
    [
        ("unknown-flag", CauseKind.BAD_ARGUMENT, "unrecognized arguments: --frobnicate 1"),
        ("out-of-range", CauseKind.BAD_ARGUMENT, "ModelSettings: n_batch: Input should be greater than or equal to 1"),
        ("no-model", CauseKind.MODEL, "Model path does not exist: none.gguf"),
        ("kv-memory", CauseKind.OUT_OF_MEMORY, "failed to allocate CPU buffer of size 819200000000"),
    ],
)
def test_causes_are_read_from_real_logs(log, kind, message):
    cause = LlamaCppPythonEngine().classify((DATA / "llama-cpp-python" / f"{log}.log").read_text(), 1)
    assert (cause.kind, message in cause.message) == (kind, True), cause


def test_effective_settings_are_read_from_a_real_log():
    log = (DATA / "llama-cpp-python" / "ready.log").read_text()
    assert LlamaCppPythonEngine().effective(log) == {"n-ctx": 1024, "n-batch": 512, "n-ubatch": 512}


def test_an_answer_is_remembered_for_each_engine_apart(llama, weights, tmp_path):
    engine, env = llama()
    engine.inspect(suite("llama-cpp-python", model=weights, env=env))
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.name.startswith("llama-cpp-python-")
    assert json.loads(kept.read_text())["device"] == "cpu"
