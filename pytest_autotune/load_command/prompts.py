"""What the requests of a load test hold: lengths, a scenario, a dataset or a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pytest_autotune.load.lengths import Fixed
from pytest_autotune.load_command import values

if TYPE_CHECKING:
    from pytest_autotune.load.generator import Api, Row
    from pytest_autotune.load.lengths import Lengths
    from pytest_autotune.load.scenario import Scenario
    from pytest_autotune.load_command.options import Written

_GENERATING = ("completions", "chat")
_SAID_BY = {  # option -> others that it leaves nothing to say
    "scenario": ("prompt_tokens", "output_tokens"),
    "dataset": ("prompt_tokens", "prefix_tokens", "replay"),
    "replay": ("prompt_tokens", "prefix_tokens", "turns"),
    "burst": ("turns",),
}


@dataclass(frozen=True, slots=True)
class Prompts:
    """The requests of a load test, apart from when they are sent."""

    api: Api
    prompt_tokens: Lengths
    output_tokens: Lengths
    rows: tuple[Row, ...] = ()
    times_s: tuple[float, ...] = ()  # of a trace
    query_tokens: Lengths | None = None  # of a rerank request

    @property
    def made_up(self) -> bool:
        """Whether the client makes up the text of prompts, to a length."""
        return not any(row.text is not None or row.turns for row in self.rows)


def read_prompts(written: Written) -> Prompts:
    """Return what is sent; raise `SuiteError` for options that contradict each other and files that cannot be read."""
    for name, others in _SAID_BY.items():
        for other in others:
            if name in written and other in written:
                raise written.wrong(other, f"{written.label(name)} says that already; remove one of them")
    scenario = written.read_given("scenario", _read_scenario)
    api = _read_api(written, scenario)
    if api not in _GENERATING:
        for name in ("output_tokens", "turns", "ignore_eos"):
            if name in written:
                raise written.wrong(name, f"{api} generates nothing; remove it")
    if "documents" in written and api != "rerank":
        raise written.wrong("documents", f"{api} has no documents; remove it, or use {written.label('api')} rerank")
    prompt, output = (written.read(name, values.read_lengths) for name in ("prompt_tokens", "output_tokens"))
    if scenario is not None:
        prompt, output = scenario.prompt or prompt, scenario.output or output
        if scenario.prompt is None and "dataset" not in written:
            raise written.wrong("scenario", f"{scenario.text} needs {written.label('dataset')}")
        if scenario.prompt is not None and ("dataset" in written or "replay" in written):
            raise written.wrong("scenario", "the file has the prompts already; remove one of them")
    rows, times_s = _read_rows(written)
    _check_prefix(written, prompt)
    return Prompts(api, prompt, output, rows, times_s, None if scenario is None else scenario.query)


def _read_scenario(value: object) -> Scenario:
    from pytest_autotune.load.scenario import read_scenario

    return read_scenario(values.read_text(value))


def _read_api(written: Written, scenario: Scenario | None) -> Api:
    api = cast("Api", written.read("api", values.read_api))
    if scenario is None or api in scenario.apis:
        return api
    if "api" not in written:
        return scenario.apis[0]
    raise written.wrong("api", f"scenario {scenario.text} is for {' or '.join(scenario.apis)}, not {api}; change one")


def _read_rows(written: Written) -> tuple[tuple[Row, ...], tuple[float, ...]]:
    limit = written.read_given("limit", values.read_positive_count)
    dataset, replay = (written.read_given(name, values.read_path) for name in ("dataset", "replay"))
    if dataset is not None:
        from pytest_autotune.load.datasets import read_dataset

        return read_dataset(dataset, limit=limit), ()
    if replay is not None:
        from pytest_autotune.load.traces import read_trace

        trace = read_trace(replay, limit=limit)
        return trace.rows, trace.times_s
    return (), ()


def _check_prefix(written: Written, prompt: Lengths) -> None:
    prefix = written.read("prefix_tokens", values.read_count)
    if prefix and isinstance(prompt, Fixed) and prefix >= prompt.tokens:
        raise written.wrong("prefix_tokens", f"{prefix} leaves nothing of prompts of {prompt.tokens} tokens; use fewer")
