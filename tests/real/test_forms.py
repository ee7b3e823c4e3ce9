"""The configuration file for `vllm serve --config`, read by a real vLLM."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess

import pytest

from pytest_autotune.reporting.export import best_forms
from tests.make_reports import BEST, report

PYTHON = os.environ.get("PYTEST_AUTOTUNE_VLLM_PYTHON", "")
READ = """
import json, sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
parsed = [vars(parser.parse_args(argv)) for argv in json.loads(sys.argv[1])]
for found in parsed:
    del found["config"]
    tag = found.pop("model_tag")  # what stands behind `vllm serve`
    found["model"] = tag or found["model"]
told = [{name: repr(value) for name, value in found.items()} for found in parsed]
print(json.dumps(told))
"""

pytestmark = [
    pytest.mark.xdist_group("real"),
    pytest.mark.real_engine,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set PYTEST_AUTOTUNE_VLLM_PYTHON to a Python that has vLLM"),
]


def test_vllm_reads_the_configuration_file_as_the_command_line(tmp_path):
    settings = (
        *("--max-num-seqs", "64", "--gpu-memory-utilization", "0.9", "--dtype", "bfloat16", "--seed=-1"),
        *("--enforce-eager", "--no-enable-prefix-caching", "--max-model-len", "4k"),
        "--chat-template=- no: 'x' # \n{{ y }}",
        *("--compilation-config.cudagraph_mode", "NONE", "--allowed-origins", '["a","on"]'),
        *("--middleware", "yes", "--override-generation-config", '{"temperature":0.5,"top_k":3}'),
    )
    module = ("python", "-m", "vllm.entrypoints.openai.api_server")
    address = ("--model", "meta/llama", "--served-model-name", "llama-x7f3", "--host", "127.0.0.1", "--port", "41234")
    of = report(dataclasses.replace(BEST, argv=(*module, *address, *settings)))
    path = tmp_path / "best.vllm.yaml"
    path.write_text(best_forms(of, of.selection.best)["vllm.yaml"], encoding="utf-8")
    by_hand = ["meta/llama", "--served-model-name", "meta/Llama 3", "--host", "127.0.0.1", "--port", "8000", *settings]
    asked = json.dumps([["serve", *by_hand], ["serve", "--config", str(path)]])
    done = subprocess.run([PYTHON, "-c", READ, asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    line, file = json.loads(done.stdout.splitlines()[-1])
    assert file == line
    assert (file["max_num_seqs"], file["enforce_eager"], file["enable_prefix_caching"]) == ("64", "True", "False")
