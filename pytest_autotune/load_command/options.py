"""The options of a load: what each is called, means and defaults to, on the command line and in the fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pytest_autotune.errors import SuiteError
from pytest_autotune.spelling import nearest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

T = TypeVar("T")

API_KEY_VARIABLE = "PYTEST_AUTOTUNE_API_KEY"
_SECRET = ("api_key", "header")  # options whose values are never shown
CONSTANT = "constant"
POISSON = "poisson"


EPILOG = """exit status: 0 every limit held, or none was given; 1 a limit was missed, or the load did not reach the
server; 2 interrupted, what was measured is printed and written; 3 a batch could not be measured; 4 a wrong option, or
a server that cannot be reached"""


class Option(NamedTuple):
    """One option; without a `metavar` it is a flag."""

    meaning: str
    metavar: str = ""
    default: str | None = None  # as one would write it
    many: bool = False  # may be given several times


# By the names of the fixture's keywords; on the command line `_` is `-` and two dashes come first.
OPTIONS = {
    "url": Option("base URL of the server: http://, https:// or unix:///path/to/socket", "URL"),
    "model": Option("model name to ask for; default: the one that the server lists", "NAME"),
    "api": Option("completions, chat, embeddings or rerank", "API", "completions"),
    "concurrency": Option("load levels: requests in flight at any time (closed loop)", "N[,N...]"),
    "rate": Option("load levels: requests per second, whether or not the server keeps up (open loop)", "R[,R...]"),
    "burst": Option("load levels: requests that are all sent at once", "N[,N...]"),
    "stages": Option(
        "one load level that changes, by rate: '5 for 30s, 5..50 for 1m'; its warm-up is a part of it", "STAGES"
    ),
    "stages_of": Option("what the stages are of: rate or concurrency", "KIND", "rate"),
    "replay": Option(
        "a recorded trace, sent at its times: Mooncake, Azure LLM traces, or JSON lines; the window is as long", "FILE"
    ),
    "speed": Option("load levels of a replay: how many times as fast as recorded", "X[,X...]", "1"),
    "arrivals": Option(
        "how a rate spreads its requests: poisson, constant, or the burstiness of gamma gaps (1 is poisson, "
        "less is burstier)",
        "SHAPE",
        POISSON,
    ),
    "max_concurrency": Option("of an open loop: what is due beyond so many requests in flight waits for an end", "N"),
    "prompt_tokens": Option(
        "length of each prompt: a number, or a distribution: U(min,max), N(mean,sd)", "TOKENS", "512"
    ),
    "output_tokens": Option("tokens that each request asks for, likewise", "TOKENS", "128"),
    "scenario": Option(
        "both lengths as genai-bench writes them: D(100,100), N(480,240)/(300,150), U(50,100)/(200,250), E(1024), "
        "R(1024,100)",
        "SCENARIO",
    ),
    "dataset": Option(
        "prompts from a file or directory: JSON, JSON lines, CSV, Parquet, ShareGPT, or a Hugging Face dataset on disk",
        "PATH",
    ),
    "limit": Option("take only so many rows of a dataset or trace", "N"),
    "shuffle": Option("take the rows of a dataset in an order by the seed"),
    "prefix_tokens": Option("first tokens of each prompt that are the same within a group", "N", "0"),
    "prefix_groups": Option("groups of prompts that share a prefix", "N", "1"),
    "turns": Option("requests of a conversation, each with all earlier ones and their answers", "TURNS", "1"),
    "think_time": Option("pause between an answer and the next turn", "DURATION", "0s"),
    "documents": Option("documents of a rerank request", "N", "10"),
    "duration": Option("length of the measurement window of each level", "DURATION", "30s"),
    "warmup": Option(
        "how long each level is loaded before its window opens; without it none for stages, burst and replay",
        "DURATION",
        "5s",
    ),
    "max_requests": Option("close a window early after so many finished requests", "N"),
    "max_errors": Option("close a window early after so many failed requests, or such a share: 10 or 5%", "N|P%"),
    "request_timeout": Option("when an unanswered request counts as failed", "DURATION", "120s"),
    "slo": Option("a limit to keep, e.g. ttft.p90<=500ms, error_rate<=1%, output_throughput>=100", "LIMIT", many=True),
    "gpus": Option("GPUs of the server, for the rates per GPU", "N", "1"),
    "seed": Option("equal seeds send equal requests; default: a new one each time", "N"),
    "workers": Option("processes that send the load: auto or a number", "N", "auto"),
    "token_ids": Option("send prompts as token ids: exact lengths, where the server takes them (vLLM, sim)"),
    "ignore_eos": Option("ask for exactly so many output tokens, where the server can (vLLM, SGLang, sim)"),
    "api_key": Option(f"sent as a bearer token; default: the variable {API_KEY_VARIABLE}", "KEY"),
    "header": Option("a header of every request, 'name: value'", "HEADER", many=True),
    "insecure": Option("accept any TLS certificate"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare every option; what was not given is None, so that the reader knows."""
    for name, option in OPTIONS.items():
        text = option.meaning if option.default is None else f"{option.meaning} (default: {option.default})"
        if not option.metavar:
            parser.add_argument(flag(name), action="store_true", default=None, help=text.replace("%", "%%"))
        else:
            action = "append" if option.many else "store"
            parser.add_argument(flag(name), action=action, metavar=option.metavar, help=text.replace("%", "%%"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare everything that the command line has."""
    parser.epilog = EPILOG
    add_options(parser)
    parser.add_argument("--json", metavar="FILE", help="write everything to a file, anew after each level")
    parser.add_argument(
        "--read", metavar="FOLDER", help="load nothing: show results that genai-bench has left; with --slo and --gpus"
    )


def flag(name: str) -> str:
    """Return an option as a command line has it."""
    return f"--{name.replace('_', '-')}"


def keyword(name: str) -> str:
    """Return an option as Python has it."""
    return name


class Written:
    """Options as they were written: text of a command line, or values of Python; errors name the option."""

    def __init__(self, values: Mapping[str, object], *, label: Callable[[str], str] = flag) -> None:
        for name in values:
            if name not in OPTIONS:
                raise SuiteError(f"{label(name)} is not an option{nearest(name, OPTIONS)}")
        self._values = {name: value for name, value in values.items() if value is not None}
        self.label = label

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def read(self, name: str, reader: Callable[[Any], T]) -> T:
        """Return what `reader` makes of an option, or of its default."""
        try:
            return reader(self._values.get(name, OPTIONS[name].default))
        except ValueError as error:
            raise self.wrong(name, str(error)) from None

    def read_given(self, name: str, reader: Callable[[Any], T]) -> T | None:
        """Return what `reader` makes of an option; None when it was not given."""
        return self.read(name, reader) if name in self else None

    def wrong(self, name: str, problem: str) -> SuiteError:
        """Return the error that an option has this problem."""
        return SuiteError(f"{self.label(name)}: {problem}")

    def shown(self) -> dict[str, object]:
        """Return what was given, without secrets."""
        return {name: value for name, value in self._values.items() if name not in _SECRET}
