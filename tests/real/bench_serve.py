"""Runs ``vllm bench serve`` with an interpreter that has vLLM.

Its own command asks for the metadata of a distribution called ``vllm``, which the CPU build is not.
"""

from __future__ import annotations

from vllm.benchmarks.serve import add_cli_args, main

try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())
