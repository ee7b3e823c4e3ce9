"""The terminal's lines on a verification, against a stored measurement and over pairs of deployments."""

from dataclasses import replace

import pytest

from pytest_autotune.comparison import Looks, Pair, Tolerance, compare
from pytest_autotune.gate import Gate, Rule, judge_verification
from pytest_autotune.held import Verification, hold
from pytest_autotune.reporting.verification import verification_lines
from pytest_autotune.suite_gate import Terms
from tests.make_baselines import baseline
from tests.make_history import SLOWER, series
from tests.make_records import trial
from tests.make_reports import good, report, suite

TOLERANCES = {"output_throughput": 0.05, "error_rate": 0.01}
TERMS = Terms(TOLERANCES)
THEN = {
    "c1": {"output_throughput": 45.0, "ttft.p90": 0.1, "error_rate": 0.0},
    "c8": {"output_throughput": 250.0, "ttft.p90": 0.4, "error_rate": 0.0},
}


def known(batch, metrics, *, width=1.01):
    """Say of a batch that it knows these metrics to so many times either way."""
    intervals = {name: (batch.metrics[name] / width, batch.metrics[name] * width) for name in metrics}
    return replace(batch, intervals=intervals)


BATCHES = (
    known(good(1, 45.0, ttft=0.1), ["output_throughput", "ttft.p90", "error_rate"]),
    known(good(8, 200.0), ["output_throughput", "error_rate"]),
)


def stored(*batches, then=THEN, metrics=("output_throughput", "ttft.p90", "error_rate"), **fields):
    held = hold(then, batches, metrics=metrics, tolerances=TOLERANCES)
    return reported(Verification(baseline(then), held, **fields), *batches)


def reported(verification, *batches):
    measured = report(trial(1, *batches), of=suite(gate=TERMS), verification=verification)
    judged = measured.selection.ranking[-1]
    gate = judge_verification(judged, verification, TERMS, again="pytest suites/chat.yaml")
    return replace(measured, gate=gate)


def test_a_stored_measurement_is_shown_beside_that_of_today_at_each_level():
    lines = verification_lines(stored(*BATCHES, changed=("engine_version: 0.10.0 then, 0.11.0 now",)), width=100)
    assert lines == [
        "suites/chat.yaml: chat on vllm 0.11.0: verified max-num-seqs=64, 10 min 00 s",
        (
            "  held against run 20260101-020304 of 2026-01-01: one stored measurement, so what differs between machines and "
            "hours is in every change"
        ),
        "  changed: engine_version: 0.10.0 then, 0.11.0 now",
        "",
        "                     at       baseline           now  change",
        "  output throughput  c1    45.00 tok/s   45.00 tok/s     0 %",
        "  output throughput  c8   250.00 tok/s  200.00 tok/s   -20 %",
        "  output throughput  all                               -11 %  regression",
        "  ttft.p90           c1         100 ms        100 ms     0 %",
        "  ttft.p90           c8         400 ms        394 ms  -1.5 %",
        "  ttft.p90           all                              -0.8 %",
        "  error rate         c1            0 %           0 %    0 pp",
        "  error rate         c8            0 %           0 %    0 pp",
        "  error rate         all                                0 pp  no change",
        "",
        "  holds: max-num-seqs=64: 2 of 2 batches compliant.",
        (
            "  BROKEN: Output throughput fell by 11 % (-11 % to -9.7 % by the noise within the batches), more than the 5 % "
            "allowed, since run 20260101-020304 of 2026-01-01. To see it again: pytest suites/chat.yaml."
        ),
        (
            "  holds: Error rate is what it was (0 pp to 0 pp by the noise within the batches), within the 1 pp allowed, "
            "since run 20260101-020304 of 2026-01-01."
        ),
    ]


def test_one_load_level_has_one_row_for_each_metric():
    lines = verification_lines(stored(BATCHES[1], then={"c8": THEN["c8"]}, metrics=["output_throughput"]), width=100)
    assert lines[3:6] == [
        "                     at      baseline           now  change",
        "  output throughput  c8  250.00 tok/s  200.00 tok/s   -20 %  regression",
        "",
    ]


def test_what_was_refused_is_told_without_a_table():
    refused = Verification(baseline(THEN), (), refused=("hardware: H100 then,\nL4 now",))
    lines = verification_lines(reported(refused, *BATCHES))
    assert lines[2] == "  not compared: hardware: H100 then, L4 now"
    assert lines[3] == ""
    assert lines[4].startswith("  holds: max-num-seqs=64: 2 of 2 batches compliant.")
    assert lines[5].startswith("  BROKEN: The baseline of run 20260101-020304")
    assert len(lines) == 6


def paired(number, *, levels=("c1", "c8")):
    pairs = [
        Pair(
            {level: {"output_throughput": 100.0, "error_rate": 0.0} for level in levels},
            {level: {"output_throughput": 90.0 + shift, "error_rate": 0.02 + shift / 1000} for level in levels},
        )
        for shift in (0.0, 0.5, -0.5, 0.2)[:number]
    ]
    tolerances = {metric: Tolerance(worse) for metric, worse in TOLERANCES.items()}
    comparison = compare(pairs, tolerances, looks=Looks(budget=4))
    return reported(Verification(baseline(THEN, commit="1a2b3c4d5e6f"), (), comparison=comparison), *BATCHES)


def test_a_comparison_is_shown_with_its_interval():
    assert verification_lines(paired(4), width=100) == [
        "suites/chat.yaml: chat on vllm 0.11.0: verified max-num-seqs=64, 10 min 00 s",
        "  compared with commit 1a2b3c4d5e of 2026-01-01: 4 pairs of deployments in turn",
        "",
        "                     at   change     from       to  allowed",
        "  output throughput  c1    -10 %",
        "  output throughput  c8    -10 %",
        "  output throughput  all   -10 %    -10 %   -9.3 %      5 %  regression",
        "  error rate         c1    +2 pp",
        "  error rate         c8    +2 pp",
        "  error rate         all   +2 pp  +1.9 pp  +2.1 pp     1 pp  regression",
        "",
        "  holds: max-num-seqs=64: 2 of 2 batches compliant.",
        (
            "  BROKEN: Output throughput fell by 10.0 % (9.3 to 10.4 % at 95 % confidence, 4 pairs), more than the 5 % "
            "allowed, since commit 1a2b3c4d5e of 2026-01-01. To see it again: pytest suites/chat.yaml."
        ),
        (
            "  BROKEN: Error rate rose by 2.00 pp (1.94 to 2.05 pp at 95 % confidence, 4 pairs), more than the 1 pp "
            "allowed, since commit 1a2b3c4d5e of 2026-01-01. To see it again: pytest suites/chat.yaml."
        ),
    ]


def test_of_one_pair_nothing_is_known_of_chance():
    lines = verification_lines(paired(1, levels=("c8",)), width=100)
    assert lines[1:6] == [
        "  compared with commit 1a2b3c4d5e of 2026-01-01: 1 pair of deployments in turn",
        "",
        "                     at  change  from  to  allowed",
        "  output throughput  c8   -10 %     -   -      5 %  open",
        "  error rate         c8   +2 pp     -   -     1 pp  open",
    ]


def test_a_comparison_without_a_pair_has_no_table():
    lines = verification_lines(paired(0))
    assert lines[1] == "  compared with commit 1a2b3c4d5e of 2026-01-01: 0 pairs of deployments in turn"
    assert lines[2] == ""
    assert lines[-1].startswith("  BROKEN: Nothing was measured on both sides.")


def test_a_rule_that_could_not_be_told_is_open():
    gate = Gate((Rule("a", True, "fine."), Rule("b", False, "worse."), Rule("c", False, "untold.", open=True)))
    lines = verification_lines(replace(stored(*BATCHES), gate=gate))
    assert lines[-3:] == ["  holds: fine.", "  BROKEN: worse.", "  OPEN: untold."]


def test_a_server_that_was_not_steady_is_told_and_verbose_tells_how_the_load_was_sent():
    drifting = replace(BATCHES[1], remarks=("ttft was drifting", "the window was short"))
    measured = stored(BATCHES[0], drifting)
    assert verification_lines(measured)[-1] == "  [load] concurrency=8: ttft was drifting"
    verbose = verification_lines(measured, verbose=True)
    assert "  [slo] 2/2 batches compliant" in verbose
    assert any(
        line.startswith("  [load] concurrency=1: 100 % delivered, 1 worker at 20% of a core") for line in verbose
    )
    assert verbose[-1] == "  [load] concurrency=8: the window was short"


def test_a_level_that_began_lately_is_told_and_no_older_one():
    told = (series(*SLOWER, version="1\x1b"), series(*SLOWER, 150.0, metric="e2e.p99"))
    lines = verification_lines(replace(stored(*BATCHES), history=told))
    assert [line for line in lines if "history" in line] == [
        "  history: -25 % output throughput at c8 since commit 07c0ffee00 of 2026-01-09, engine 1 "
    ]


def test_of_several_trials_the_worst_is_told_and_verbose_tells_all():
    fast, slow = trial(1, good(8, 200.0)), trial(2, good(8, 190.0, ttft=0.7), configuration={"max-num-seqs": 8})
    verification = Verification(baseline(THEN), ())
    several = report(slow, fast, verification=verification)
    assert verification_lines(several)[0].startswith("suites/chat.yaml: chat on vllm 0.11.0: verified max-num-seqs=8,")
    assert len(verification_lines(several)) == 4
    verbose = verification_lines(several, verbose=True)
    assert sum(line.startswith("  [load] concurrency=8") for line in verbose) == 2


def test_secrets_and_control_characters_are_not_shown():
    of = suite(env={"HF_TOKEN": "very-secret-value"})
    changed = ("server.env: very-secret-value\x1b[31m then, gone now",)
    measured = report(trial(1, *BATCHES), of=of, verification=Verification(baseline(THEN), (), changed=changed))
    assert verification_lines(measured)[2] == "  changed: server.env: *** [31m then, gone now"


@pytest.mark.parametrize(("version", "shown"), [("0.11.0", "vllm 0.11.0: verified"), ("", "vllm: verified")])
def test_a_version_is_shown_if_it_is_known(version, shown):
    measured = report(trial(1, *BATCHES), verification=Verification(baseline(THEN), ()), engine_version=version)
    assert shown in verification_lines(measured)[0]
