"""What settings of any engine become, by the argument parser and the configuration of a real vLLM."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from pytest_autotune.engines.dialects import VLLM
from pytest_autotune.engines.flags import to_argv
from pytest_autotune.engines.neutral import expand
from tests.test_dialects import EVERY_DIVISION, EVERYTHING, QUANTIZATIONS, published, said

PYTHON = os.environ.get("PYTEST_AUTOTUNE_VLLM_PYTHON", "")
PARSE = """\
import json, sys
from vllm.config.quantization import resolve_quantization_config
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
default = vars(parser.parse_args([]))
told = []
for argv in json.load(sys.stdin):
    found = {name: value for name, value in vars(parser.parse_args(argv)).items() if value != default[name]}
    assert found.get("quantization") in (None, *QUANTIZATION_METHODS), found
    resolve_quantization_config(found.get("quantization"), found.get("quantization_config"))
    told.append(found)
choices = {flag: action.choices for action in parser._actions for flag in action.option_strings}
print(json.dumps({"told": told, "choices": {flag: [str(each) for each in found or ()] for flag, found in choices.items()}}, default=repr))
"""

pytestmark = [
    pytest.mark.real_engine,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set PYTEST_AUTOTUNE_VLLM_PYTHON to a Python that has vLLM"),
]


def test_vllm_reads_every_value_as_another_setting():
    values = [("quantization", each) for each in said("vllm", "quantization", QUANTIZATIONS)]
    # vLLM's own defaults are those of tp1.
    values += [("parallelism", each) for each in said("vllm", "parallelism", EVERY_DIVISION) if each != "tp1"]
    lines = [to_argv(expand({name: value}, VLLM), VLLM.flags) for name, value in values]
    lines.append(to_argv(expand({**EVERYTHING, "memory_fraction": 0.5}, VLLM), VLLM.flags))
    answer = subprocess.run(
        [PYTHON, "-c", PARSE], input=json.dumps(lines), capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout.splitlines()[-1])
    *told, everything = document["told"]
    seen = {}
    for (name, value), found in zip(values, told, strict=True):
        seen.setdefault((name, json.dumps(found, sort_keys=True)), []).append(value)
    same = [each for each in seen.values() if len(each) > 1]
    assert all(len({value.rpartition("-ep")[0] for value in each}) == 1 for each in same)  # which suites are refused
    assert everything == {
        "max_model_len": 4096,
        "enforce_eager": True,
        "cudagraph_capture_sizes": [1, 2],
        "kv_cache_dtype": "fp8",
        "max_num_batched_tokens": 2048,
        "max_num_seqs": 8,
        "enable_prefix_caching": False,
        "gpu_memory_utilization": 0.5,
    }
    for name, choices in published("vllm").items():
        assert set(choices) <= {*document["choices"][f"--{name}"]} or name == "quantization"
