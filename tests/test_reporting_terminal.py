from __future__ import annotations

import dataclasses

import pytest

from pytest_autotune.pricing import priced
from pytest_autotune.reporting.terminal import summary_lines
from pytest_autotune.slo import Limit
from pytest_autotune.suite import Objective, Price
from tests.make_records import batch, trial
from tests.make_reports import BEST, DEFAULTS, INTERRUPTED, REFUSED, VIOLATING, good, report, suite


def text(*args, **kwargs) -> str:
    return "\n".join(summary_lines(*args, **kwargs))


def test_the_summary_compares_the_best_with_the_defaults_and_ranks_the_trials():
    lines = summary_lines(
        report(DEFAULTS, BEST, VIOLATING, REFUSED, INTERRUPTED, recorded=2), width=100, files=["a/best.json"]
    )
    assert lines == [
        "suites/chat.yaml: chat on vllm 0.11.0: 5 trials (2 compliant, 1 violating, 1 infeasible, 1 interrupted), 2 recorded before, 5 servers started, 10 min 00 s",
        "  best: max-num-seqs=64 tp=2  [max-num-seqs:64-tp:2]",
        "",
        "                             best      defaults  change           limit",
        "  measured at                  c8            c8",
        "  verdict               compliant     compliant",
        "  output throughput  231.70 tok/s  180.50 tok/s   +28 %  >= 10.00 tok/s",
        "  ttft.p90                 394 ms        394 ms     0 %       <= 500 ms",
        "  tpot.mean               12.3 ms       12.3 ms     0 %",
        "  e2e.p90                   4.5 s         4.5 s     0 %",
        "  capacity                     c8            c8",
        "  GPUs                          2             1",
        "  start-up                 41.5 s        41.5 s",
        "",
        "  by output throughput, compliant batches only:",
        "  #   tok/s  at  capacity  GPUs  outcome      configuration",
        "  1  231.70  c8        c8     2  compliant    max-num-seqs=64 tp=2",
        "  2  180.50  c8        c8     1  compliant    engine defaults",
        "  3       -   -         -     1  violating    max-num-seqs=8 tp=1",
        "       concurrency=1 violates ttft.p90: 610 ms > 500 ms (+22 %)",
        "  4       -   -         -     1  infeasible   max-num-seqs=999 tp=1",
        "       out of memory: 3 GiB short",
        "  5  999.00  c1        c1     1  interrupted  max-num-seqs=32 tp=1",
        "",
        "  what binds the best: at concurrency 16: ttft.p90: 612 ms > 500 ms (+22 %)",
        "",
        "  max-num-seqs=64 tp=2:",
        "  [slo] 2/4 batches compliant",
        "  [slo] concurrency=16 violates ttft.p90: 612 ms > 500 ms (+22 %)",
        "  [slo] concurrency=32 not measured: out of memory: CUDA out of memory",
        "  [slo] best output throughput 231.70 tok/s from concurrency 8 (2 of 4 batches compliant)",
        "",
        "  start it with:",
        (
            "    /usr/bin/vllm serve 'meta/Llama 3' --host 127.0.0.1 --port 8000 --served-model-name 'meta/Llama 3' "
            '--max-model-len 41234 --api-key "$API_KEY" --speculative-config \'{"k": [1, 2], "s": "it\'"\'"\'s"}\''
        ),
        "",
        "  written: a/best.json",
    ]


def test_when_nothing_complies_the_binding_limit_and_the_closest_are_named():
    lines = summary_lines(report(VIOLATING, REFUSED))
    assert lines[1] == (
        "  No configuration meets the SLO: the binding limit is ttft.p90: 610 ms > 500 ms (+22 %) at concurrency 1 in "
        "max-num-seqs=8 tp=1. Relax that limit, add a lower load level, or widen the parameters."
    )
    assert lines[-1] == "  [slo] no batch complies; concurrency=1 violates least: ttft.p90: 610 ms > 500 ms (+22 %)"
    assert not any("start it with" in line or "best:" in line for line in lines)


def test_defaults_that_violate_are_shown_but_are_no_yardstick():
    lines = summary_lines(report(trial(1, good(1, 900.0, ttft=0.9), configuration={}), BEST))
    assert "  measured at                  c8            c1" in lines
    assert "  verdict               compliant     violating" in lines
    assert "  output throughput  231.70 tok/s  900.00 tok/s          >= 10.00 tok/s" in lines


def test_defaults_that_did_not_start_have_no_numbers():
    lines = summary_lines(report(dataclasses.replace(REFUSED, configuration={}), BEST))
    assert "  verdict               compliant  infeasible" in lines
    assert "  output throughput  231.70 tok/s           -          >= 10.00 tok/s" in lines


def test_defaults_that_win_are_not_compared_with_themselves():
    lines = summary_lines(report(DEFAULTS))
    assert "  nothing that was tried beats the engine's defaults" in lines
    assert "  output throughput  180.50 tok/s  >= 10.00 tok/s" in lines
    assert not any("change" in line for line in lines)


def test_a_metric_that_the_best_does_not_have_is_left_out():
    shown = text(report(trial(1, batch(8, ttft__p90=0.4, output_throughput=50.0))))
    assert "tpot.mean" not in shown
    assert "ttft.p90" in shown


def test_a_tie_is_explained():
    other = dataclasses.replace(BEST, id=9, configuration={"a": 1, "b": 2, "c": 3})
    assert "  2 trials are within 1 % of the highest value, a tie: fewer overrides win" in text(report(BEST, other))
    assert "a tie" not in text(report(BEST, DEFAULTS))


def test_a_long_ranking_is_cut_but_the_defaults_are_always_in_it():
    better = [trial(n, good(1, 200.0 + 5 * n), configuration={"n": n}) for n in range(10, 20)]
    lines = summary_lines(report(*better, DEFAULTS), top=3)
    start = lines.index("  by output throughput, compliant batches only:")
    assert [line.split()[:2] for line in lines[start + 2 : start + 7]] == [
        ["1", "295.00"],
        ["2", "290.00"],
        ["3", "285.00"],
        ["11", "180.50"],
        ["...", "and"],
    ]
    assert lines[start + 6] == "  ... and 7 more trials"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_tables_keep_to_the_width_of_the_terminal(width):
    wide = dataclasses.replace(BEST, configuration={"speculative-config": {"model": "x" * 200}})
    whole = ("suites/", "  best:", "  [slo]", "    /usr", "  written", "  No conf", "  what binds")
    lines = summary_lines(report(DEFAULTS, wide, REFUSED), width=width)
    assert all(len(line) <= width for line in lines if not line.startswith(whole))
    assert any(line.endswith("...") for line in lines)


def test_verbose_adds_what_every_trial_missed():
    verbose = text(report(DEFAULTS, BEST, VIOLATING), verbose=True)
    assert verbose.count("batches compliant\n") == 3
    assert "\n\n  engine defaults:\n  [slo] " in verbose
    assert text(report(DEFAULTS, BEST, VIOLATING)).count("batches compliant\n") == 1


def test_no_secret_and_no_control_character_reaches_the_terminal():
    of = suite(env={"HF_TOKEN": "very-secret-value"})
    refused = dataclasses.replace(REFUSED, reason="bad token very-secret-value\x1b[31m\nred")
    argv = (*BEST.argv, "very-secret-value", "--x=very-secret-value")
    shown = text(report(dataclasses.replace(BEST, argv=argv), refused, of=of))
    assert "very-secret" not in shown
    assert "\x1b" not in shown
    assert "sk-0123" not in shown
    assert shown.isascii()


def test_a_suite_of_which_nothing_ran_is_one_sentence():
    assert summary_lines(report()) == [
        "suites/chat.yaml: chat on vllm 0.11.0: 0 trials, 0 servers started, 10 min 00 s",
        "  No trial was finished. Run the same command again: it continues where this run stopped.",
    ]


def test_several_objectives_show_what_no_other_measurement_beats():
    of = suite(tradeoffs=(Objective(direction="minimize", metric="ttft.p90"),))
    lines = summary_lines(report(DEFAULTS, BEST, VIOLATING, of=of))
    start = lines.index("  no compliant measurement beats these in every objective:")
    assert lines[start + 1 : start + 4] == [
        "  output throughput  ttft.p90  at  GPUs  configuration",
        "       231.70 tok/s    394 ms  c8     2  max-num-seqs=64 tp=2",
        "        45.00 tok/s    100 ms  c1     2  max-num-seqs=64 tp=2",
    ]
    assert not any("beats these" in line for line in summary_lines(report(DEFAULTS, BEST)))


TIERS = {
    "interactive": (Limit("ttft.p90", 0.2),),
    "chat": (Limit("ttft.p90", 0.65),),
    "batch": (Limit("ttft.p90", 60.0),),
    "never": (Limit("e2e.p90", 1.0),),
}


def test_each_tier_has_its_best_and_what_binds_it():
    lines = summary_lines(report(DEFAULTS, BEST, VIOLATING, tiers=TIERS))
    start = lines.index("  best for each tier by output throughput:")
    assert lines[start - 1] == ""
    assert lines[start + 1 : start + 12] == [
        "  tier          tok/s  at  GPUs  configuration",
        "  slo          231.70  c8     2  max-num-seqs=64 tp=2",
        "  interactive   45.00  c1     2  max-num-seqs=64 tp=2",
        "       binds: at concurrency 8: ttft.p90: 394 ms > 200 ms (+97 %)",
        "  chat         900.00  c1     1  max-num-seqs=8 tp=1",
        "       binds: at concurrency 8: ttft.p90: 800 ms > 650 ms (+23 %)",
        "  batch        950.00  c8     1  max-num-seqs=8 tp=1",
        "       binds: nothing: a higher load was not measured",
        "  never             -   -     -  none complies, closest: engine defaults",
        "       binds: at concurrency 1: e2e.p90: 4.5 s > 1.0 s (+350 %)",
        "",
    ]
    assert not any("best for each" in line for line in summary_lines(report(DEFAULTS, BEST)))


@pytest.mark.parametrize("width", [40, 80])
def test_the_table_of_tiers_keeps_to_the_width_of_the_terminal(width):
    wide = dataclasses.replace(BEST, configuration={"speculative-config": {"model": "x" * 200}})
    lines = summary_lines(report(DEFAULTS, wide, tiers=TIERS), width=width)
    start = next(number for number, line in enumerate(lines) if line.startswith("  best for"))
    assert all(len(line) <= width for line in lines[start : lines.index("", start)] if "binds" not in line)


def test_costs_are_named_by_their_currency():
    of = suite(
        objective=Objective(direction="minimize", metric="cost_per_million_output_tokens"),
        price=Price(per_gpu_hour=2.5, currency="USD"),
        tradeoffs=(Objective(metric="output_throughput"),),
    )
    lines = summary_lines(report(priced(DEFAULTS, 2.5), priced(BEST, 2.5), of=of, tiers={"batch": ()}))
    assert lines[1] == "  costs are at 2.5 USD per GPU and hour"
    assert any(line.split() == ["USD", "per", "million", "output", "tokens", "3.847"] for line in lines)
    assert any(line.split()[:4] == ["#", "USD", "per", "Mtok"] for line in lines)
    assert any(line.startswith("  USD per million output tokens  output throughput  at") for line in lines)
    assert any(line.split()[:4] == ["tier", "USD", "per", "Mtok"] for line in lines)
    bare = of.model_copy(update={"price": Price(per_gpu_hour=2.5)})
    lines = summary_lines(report(priced(BEST, 2.5), of=bare))
    assert any(line.split()[:4] == ["#", "cost", "per", "Mtok"] for line in lines)
    assert any(line.startswith("  cost per million output tokens") for line in lines)
