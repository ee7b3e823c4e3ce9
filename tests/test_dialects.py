"""What settings of any engine are on each engine's command line: real flags, and never the same for two values."""

import itertools
import json
from pathlib import Path

import pytest

from pytest_autotune.engines.command import CommandEngine
from pytest_autotune.engines.dialects import DIALECTS, NEUTRAL, VLLM, Memory
from pytest_autotune.engines.engine import Address
from pytest_autotune.engines.flags import flag_name
from pytest_autotune.engines.neutral import expand, flags_of
from pytest_autotune.engines.sim.engine import server_flags
from pytest_autotune.engines.validation import unusable_settings
from pytest_autotune.parallelism import Parallelism
from pytest_autotune.quantization import PARTS, PRECISIONS, PRESETS, Quantization, read_quantization
from pytest_autotune.space import Choice, Space, canonical
from pytest_autotune.suite import Suite

QUANTIZATIONS = [
    str(asked)
    for parts in itertools.product(*(("", *PRECISIONS[part]) for part in PARTS))
    if str(asked := Quantization(*parts))
]
SIZES = (1, 2, 4)
EVERY_DIVISION = [
    str(Parallelism(*sizes, ep))
    for sizes in itertools.product(SIZES, SIZES, SIZES, SIZES, SIZES, SIZES)
    for ep in (False, True, 2, 4, 8)
]
GIB = 2**30
H100 = Memory(80 * GIB, 140 * GIB)
ADDRESS = Address("127.0.0.1", 8123, "m-1")


def published(engine):
    """Return the flags that an engine has, with their choices; the file says where each list is from."""
    return json.loads((Path(__file__).parent / "data" / "engine_flags.json").read_text())[engine]["flags"]


def suite(dialect, fixed=None, parameters=(), **given):
    command = ("serve", "--port", "{port}", "{flags}")
    space = Space(tuple(Choice(name, tuple(values)) for name, values in parameters))
    return Suite(
        name="any", engine="command", command=command, dialect=dialect, fixed=fixed or {}, space=space, **given
    )


def argv(dialect, settings):
    return CommandEngine().command(suite(dialect, settings), {}, ADDRESS).argv[3:]


def said(dialect, name, values):
    """Return what each value becomes, of those that the engine has anything for."""
    found = {}
    for value in values:
        try:
            found[value] = canonical(flags_of(name, value, DIALECTS[dialect]))
        except ValueError:
            continue
    return found


@pytest.mark.parametrize(
    ("dialect", "parallelism", "expected"),
    [
        ("vllm", "tp4", "--tensor-parallel-size 4"),
        ("vllm", "tp2-pp2", "--tensor-parallel-size 2 --pipeline-parallel-size 2"),
        ("vllm", "tp4-dp2", "--tensor-parallel-size 4 --data-parallel-size 2"),
        ("vllm", "tp8-ep", "--tensor-parallel-size 8 --enable-expert-parallel"),
        ("vllm", "tp4-dcp2", "--tensor-parallel-size 4 --decode-context-parallel-size 2"),
        ("vllm", "tp4-cp2", "--tensor-parallel-size 4 --prefill-context-parallel-size 2"),
        ("sglang", "tp4", "--tp-size 4"),
        ("sglang", "tp2-pp2", "--tp-size 2 --pp-size 2"),
        ("sglang", "tp4-dp2", "--tp-size 4 --dp-size 2"),
        ("sglang", "tp8-adp4-ep", "--tp-size 8 --attn-dp-size 4 --ep-size 8"),
        ("sglang", "tp8-ep2", "--tp-size 8 --ep-size 2"),
        ("trtllm", "tp4-pp2", "--tp_size 4 --pp_size 2"),
        ("trtllm", "tp2-cp2-ep", "--tp_size 2 --cp_size 2 --ep_size 2"),
        ("tgi", "tp4", "--num-shard 4"),
        ("llamacpp", "tp1", "--split-mode none"),
        ("llamacpp", "tp2", "--split-mode row --tensor-split 1,1"),
        ("llamacpp", "tp1-pp2", "--split-mode layer --tensor-split 1,1"),
    ],
)
def test_a_division_is_flags_of_the_engine(dialect, parallelism, expected):
    assert " ".join(argv(dialect, {"parallelism": parallelism})) == expected


@pytest.mark.parametrize(
    ("dialect", "quantization", "expected"),
    [
        ("vllm", "bf16", "--dtype bfloat16"),
        ("vllm", "fp8", "--quantization fp8"),
        ("vllm", "kv-fp8", "--kv-cache-dtype fp8"),
        ("vllm", "fp8-kv-fp8_e5m2", "--quantization fp8 --kv-cache-dtype fp8_e5m2"),
        ("vllm", "bf16-kv-bf16", "--dtype bfloat16 --kv-cache-dtype bfloat16"),
        ("vllm", "moe-mxfp4", '--quantization online --quantization-config {"moe":"mxfp4"}'),
        (
            "vllm",
            "fp8-moe-mxfp8",
            '--quantization online --quantization-config {"linear":"fp8_per_tensor","moe":"mxfp8"}',
        ),
        ("sglang", "fp8-kv-fp8", "--quantization fp8 --kv-cache-dtype fp8_e4m3"),
        ("sglang", "bf16-moe-mxfp4", "--dtype bfloat16 --quantization mxfp4"),
        ("trtllm", "kv-fp8", "--kv_cache_dtype fp8"),
        ("tgi", "bf16", "--dtype bfloat16"),
        ("tgi", "int8-kv-fp8", "--quantize bitsandbytes --kv-cache-dtype fp8_e4m3fn"),
        ("llamacpp", "kv-int8", "--cache-type-k q8_0 --cache-type-v q8_0"),
    ],
)
def test_a_precision_is_flags_of_the_engine(dialect, quantization, expected):
    assert " ".join(argv(dialect, {"quantization": quantization})) == expected


EVERYTHING = {
    "max_sequences": 8,
    "max_batched_tokens": 2048,
    "context_length": 4096,
    "kv_cache_type": "fp8",
    "eager": True,
    "prefix_cache": False,
    "graph_sizes": [1, 2],
}


@pytest.mark.parametrize(
    ("dialect", "without", "expected"),
    [
        (
            "vllm",
            (),
            (
                "--max-model-len 4096 --enforce-eager --cudagraph-capture-sizes 1 2 --kv-cache-dtype fp8"
                " --max-num-batched-tokens 2048 --max-num-seqs 8 --no-enable-prefix-caching"
            ),
        ),
        (
            "sglang",
            (),
            (
                "--context-length 4096 --disable-cuda-graph --cuda-graph-bs-decode 1 2 --kv-cache-dtype fp8_e4m3"
                " --chunked-prefill-size 2048 --max-running-requests 8 --disable-radix-cache"
            ),
        ),
        (
            "llamacpp",
            ("kv_cache_type", "eager", "graph_sizes"),
            "--ctx-size 32768 --batch-size 2048 --parallel 8 --no-cache-prompt",
        ),
        (
            "trtllm",
            ("eager", "prefix_cache", "graph_sizes"),
            "--max_seq_len 4096 --kv_cache_dtype fp8 --max_num_tokens 2048 --max_batch_size 8",
        ),
        (
            "tgi",
            ("prefix_cache",),
            (
                "--max-total-tokens 4096 --cuda-graphs 1,2 --kv-cache-dtype fp8_e4m3fn --max-batch-prefill-tokens 2048"
                " --max-batch-size 8"
            ),
        ),
    ],
)
def test_settings_of_any_engine_are_flags_of_this_one(dialect, without, expected):
    settings = {name: value for name, value in EVERYTHING.items() if name not in without}
    assert " ".join(argv(dialect, settings)) == expected
    for name in without:
        (error,) = unusable_settings(suite(dialect, {name: EVERYTHING[name]}))
        assert f"fixed.{name}: " in str(error)
        assert ("no such setting" in str(error)) is (name != "kv_cache_type")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_precision_has_a_command_line_of_its_own(dialect):
    lines = said(dialect, "quantization", QUANTIZATIONS)
    assert len(set(lines.values())) == len(lines)
    assert "{}" not in lines.values()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_named_preset_has_a_command_line_of_its_own(dialect):
    """B1 of the earlier autotuner: every preset gave the same flags."""
    lines = said(dialect, "quantization", [read_quantization(name) for name in PRESETS])
    assert len(set(lines.values())) == len(lines)
    assert len(lines) == {"vllm": 4, "sglang": 4, "tgi": 2, "trtllm": 1, "llamacpp": 0}[dialect]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_two_divisions_are_two_command_lines_or_refused(dialect):
    same = {}
    for value, line in said(dialect, "parallelism", EVERY_DIVISION).items():
        same.setdefault(line, []).append(value)
    assert len(same) >= 3
    several = [values for values in same.values() if len(values) > 1]
    assert bool(several) is (dialect in ("vllm", "sglang", "trtllm"))  # ep, and ep by its number
    for values in several:
        (error,) = unusable_settings(suite(dialect, parameters=[("parallelism", values)]))
        assert "are one command line of" in str(error)


@pytest.mark.parametrize(
    ("dialect", "name", "values"),
    [
        ("sglang", "parallelism", ["tp4-ep", "tp4-ep4"]),
        ("vllm", "parallelism", ["tp4-dp2-ep", "tp4-dp2-ep8"]),
        ("sglang", "eager", [None, False]),
        ("tgi", "kv_cache_type", ["fp8", "fp8_e4m3"]),
        ("sglang", "kv_cache_type", ["fp8", "fp8_e4m3"]),
    ],
)
def test_two_values_with_one_command_line_are_refused(dialect, name, values):
    (error,) = unusable_settings(suite(dialect, parameters=[(name, values)]))
    assert f"parameters.{name}: " in str(error)
    assert f"are one command line of {dialect}; remove one" in str(error)


@pytest.mark.parametrize(
    ("dialect", "fixed", "parameters", "problem"),
    [
        (
            "vllm",
            {"tensor-parallel-size": 2},
            [("parallelism", ["tp2", "tp4"])],
            "'tp2' has no effect: 'tensor-parallel-size' is set by another",
        ),
        ("sglang", {"tp": 2}, [("parallelism", ["tp2", "tp4"])], "has no effect: 'tp-size' is set by another"),
        (
            "vllm",
            {"dtype": "half"},
            [("quantization", ["bf16-kv-fp8", "fp16-kv-fp8"])],
            "as another setting sets 'dtype'",
        ),
        ("vllm", {"kv_cache_type": "fp8"}, [("quantization", ["bf16", "bf16-kv-fp8"])], "are one command line"),
        ("vllm", {"max-num-seqs": 8}, [("max_sequences", [8, 16])], "8 has no effect: 'max-num-seqs' is set by"),
        ("vllm", {"max_sequences": 8, "max-num-seqs": 8}, [], "fixed.max_sequences: 8 has no effect"),
        ("tgi", {"eager": True, "graph_sizes": [1]}, [], "fixed.eager: true has no effect"),
        ("trtllm", {"free_gpu_memory_fraction": 0.8, "memory_fraction": 0.9}, [], "fixed.memory_fraction: 0.9 has no"),
    ],
)
def test_a_value_that_other_settings_leave_nothing_of_is_refused(monkeypatch, dialect, fixed, parameters, problem):
    monkeypatch.setattr("pytest_autotune.engines.neutral.memory_of", lambda _: H100)
    (error,) = unusable_settings(suite(dialect, fixed, parameters))
    assert problem in str(error)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_flag_and_value_is_one_that_the_engine_has(dialect):
    """Of vLLM `tests/real` asks the argument parser itself."""
    flags = published(dialect)
    emitted = [said(dialect, "quantization", QUANTIZATIONS), said(dialect, "parallelism", EVERY_DIVISION)]
    for name, value in EVERYTHING.items():
        emitted.append(said(dialect, flag_name(name), [tuple(value) if isinstance(value, list) else value]))
    lines = [json.loads(line) for found in emitted for line in found.values()]
    assert len(lines) > 10
    for line in lines:
        for name, value in line.items():
            assert name in flags
            assert not flags[name] or str(value) in flags[name]
    share = DIALECTS[dialect].share
    assert share is None or share.flag.replace("_", "-") in flags
    assert DIALECTS[dialect].spellings.keys() <= {*flags, "tp", "pp", "dp", "ep"}


def test_neutral_names_are_no_flags_of_their_own_with_another_meaning():
    for name, dialect in DIALECTS.items():
        clash = {*NEUTRAL, "parallelism"} & published(name).keys()
        assert all(dialect.renamed.get(each) == each for each in clash)
    assert not {*NEUTRAL, "parallelism", "quantization"} & server_flags().keys()


@pytest.mark.parametrize(
    ("dialect", "parallelism", "problem"),
    [
        ("vllm", "tp4-adp2", "vllm has no adp; it divides by tp, pp, dp, cp, dcp"),
        ("vllm", "tp4-dcp3", "tp 4 cannot be divided by dcp 3"),
        ("vllm", "tp4-dp2-ep4", "vllm spreads experts over all 8 GPUs of tp, dp and cp, not over 4; write ep"),
        ("sglang", "tp2-adp4", "tp 2 cannot be divided by adp 4"),
        ("sglang", "tp2-cp2", "sglang has no cp; it divides by tp, pp, dp, adp, dcp"),
        ("sglang", "tp4-ep3", "tp 4 cannot be divided by ep 3"),
        ("trtllm", "tp2-dp2", "trtllm has no dp; it divides by tp, pp, cp"),
        ("trtllm", "tp2-ep4", "tp 2 cannot be divided by ep 4"),
        ("tgi", "tp2-pp2", "tgi has no pp; it divides by tp"),
        ("tgi", "tp2-ep", "tgi has no ep; it divides by tp"),
        ("llamacpp", "tp2-pp2", "llamacpp divides by layers (pp) or by rows (tp), not by both"),
        ("llamacpp", "tp2-dp2", "llamacpp has no dp"),
        ("llamacpp", "tp2-ep", "llamacpp has no ep"),
    ],
)
def test_a_division_that_the_engine_refuses_is_told_before_anything_starts(dialect, parallelism, problem):
    """B16: presets violated rules that nobody applied."""
    (error,) = unusable_settings(suite(dialect, parameters=[("parallelism", [parallelism])]))
    assert str(error).startswith(f"parameters.parallelism: {parallelism!r}: ")
    assert problem in str(error)


@pytest.mark.parametrize(
    ("dialect", "quantization", "problem"),
    [
        ("vllm", "int8", "weights int8: vllm has only bf16, fp16, fp32, fp8, mxfp8"),
        ("vllm", "kv-fp32", "kv_cache fp32: vllm has only"),
        ("vllm", "attention-fp8", "attention fp8: vllm has no flag for it"),
        ("vllm", "moe-w4afp8", "moe w4afp8: vllm has only"),
        ("sglang", "int8", "weights int8: sglang has only"),
        ("sglang", "fp8-moe-mxfp4", "sglang has one quantization; leave out weights fp8, or moe"),
        ("trtllm", "fp8", "weights fp8: trtllm has the weights of the checkpoint"),
        ("llamacpp", "int4", "weights int4: llamacpp has the weights of the file"),
        ("tgi", "moe-fp8", "moe fp8: tgi has no flag for the experts alone"),
    ],
)
def test_a_precision_that_the_engine_has_not_is_told(dialect, quantization, problem):
    (error,) = unusable_settings(suite(dialect, parameters=[("quantization", [quantization])]))
    assert problem in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_sequences", 0),
        ("max_sequences", "8"),
        ("max_batched_tokens", True),
        ("context_length", 1.5),
        ("memory_fraction", 0),
        ("memory_fraction", 1.1),
        ("memory_fraction", "90%"),
        ("kv_cache_type", 8),
        ("eager", "yes"),
        ("prefix_cache", 1),
        ("graph_sizes", []),
        ("graph_sizes", [1, 0]),
        ("graph_sizes", 8),
    ],
)
def test_a_value_of_the_wrong_kind_is_told(name, value):
    (error,) = unusable_settings(suite("vllm", {name: value}))
    assert str(error).startswith(f"fixed.{name}: {json.dumps(value)}".replace('"', "'"))


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        # A flag of the suite's own wins over a neutral setting, and that over a structured one.
        ({"max_sequences": 8, "max-num-seqs": 4}, {"max-num-seqs": 4}),
        (
            {"quantization": "fp8-kv-fp8", "kv_cache_type": "bf16"},
            {"quantization": "fp8", "kv-cache-dtype": "bfloat16"},
        ),
        (
            {"quantization": "fp8-kv-fp8", "kv_cache_type": "bf16", "kv_cache_dtype": "auto"},
            {"quantization": "fp8", "kv-cache-dtype": "auto"},
        ),
        (
            {"parallelism": "tp4-pp2", "pipeline_parallel_size": 1},
            {"tensor-parallel-size": 4, "pipeline-parallel-size": 1},
        ),
        ({"parallelism": None, "quantization": None, "eager": None}, {}),
        ({"quantization": "awq"}, {"quantization": "awq"}),
        ({"kv_cache_type": "auto"}, {"kv-cache-dtype": "auto"}),
        ({"memory_fraction": 0.9}, {"gpu-memory-utilization": 0.9}),
    ],
)
def test_what_the_suite_says_itself_wins(settings, flags):
    assert expand(settings, VLLM) == flags


def test_without_a_dialect_settings_are_as_they_stand():
    settings = {"parallelism": 4, "quantization": "fp8", "max_sequences": 8}
    assert expand(settings, None) == {"parallelism": 4, "quantization": "fp8", "max-sequences": 8}
    assert argv(None, settings) == ("--parallelism", "4", "--quantization", "fp8", "--max-sequences", "8")


def test_contexts_of_llama_cpp_are_shared_unless_the_cache_is_unified():
    both = {"context_length": 100, "max_sequences": 4}
    assert expand(both, DIALECTS["llamacpp"])["ctx-size"] == 400
    assert expand({**both, "kv-unified": True}, DIALECTS["llamacpp"])["ctx-size"] == 100
    assert expand({**both, "ctx-size": 50}, DIALECTS["llamacpp"])["ctx-size"] == 50
    assert expand({"context_length": 100}, DIALECTS["llamacpp"])["ctx-size"] == 100
    assert expand({"context_length": 100, "parallel": 2}, DIALECTS["llamacpp"])["ctx-size"] == 200
