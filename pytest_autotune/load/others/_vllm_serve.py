"""Runs ``vllm bench serve`` with the interpreter that has vLLM; imports nothing of this package.

vLLM's own command asks for the metadata of a distribution called ``vllm``, which its CPU build is not.
"""

from __future__ import annotations

if __name__ == "__main__":
    from vllm.benchmarks.serve import add_cli_args, main

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:  # where it was until vLLM 0.11
        from vllm.utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())
