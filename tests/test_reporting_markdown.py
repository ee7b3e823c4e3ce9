"""The Markdown summary: gate first, tables that Markdown renders, and nobody's words as markup."""

from dataclasses import replace

from pytest_autotune.comparison import Looks, Pair, Tolerance, compare
from pytest_autotune.gate import Gate, Rule
from pytest_autotune.held import Verification, hold
from pytest_autotune.reporting.markdown import markdown_text
from tests.make_baselines import baseline
from tests.make_history import SLOWER, series
from tests.make_records import trial
from tests.make_reports import BEST, DEFAULTS, REFUSED, good, report, suite


def test_a_search_shows_its_gate_and_its_best_trials():
    lines = markdown_text([report(DEFAULTS, BEST, REFUSED)]).splitlines()
    assert lines[:8] == [
        "### chat: passed",
        "",
        "Searched on vllm 0.11.0: 3 trials (2 compliant, 1 infeasible), 3 servers started, 10 min 00 s.",
        "",
        "| # | output throughput | at | outcome | configuration |",
        "|---|---|---|---|---|",
        "| 1 | 231.70 tok/s | c8 | compliant | max-num-seqs=64 tp=2 |",
        "| 2 | 180.50 tok/s | c8 | compliant | engine defaults |",
    ]
    assert lines[-1].startswith(
        "- holds: `compliant-configuration`: max-num-seqs=64 tp=2: output throughput 231.70 tok/s"
    )


def verified(verification, **fields):
    return replace(report(trial(1, good(8, 200.0))), verification=verification, **fields)


def test_a_verification_shows_both_numbers_and_what_differs():
    held = hold(
        {"c8": {"output_throughput": 250.0}},
        [good(8, 200.0)],
        metrics=["output_throughput"],
        tolerances={"output_throughput": 0.05},
    )
    gate = Gate((Rule("not-worse.output_throughput", False, "It fell."), Rule("slo", True, "Fine.")))
    text = markdown_text(
        [verified(Verification(baseline(), held, changed=("engine_version: 1 then, 2 now",)), gate=gate)]
    )
    assert text.splitlines() == [
        "### chat: failed",
        "",
        "Verified max-num-seqs=64 on vllm 0.11.0, against run 20260101-020304 of 2026-01-01, 10 min 00 s.  ",
        r"changed: engine\_version: 1 then, 2 now",
        "",
        "|  | at | baseline | now | change |  |",
        "|---|---|---|---|---|---|",
        "| output throughput | c8 | 250.00 tok/s | 200.00 tok/s | -20 % | open |",
        "",
        "- **broken**: `not-worse.output_throughput`: It fell.",
        "- holds: `slo`: Fine.",
    ]


def test_a_comparison_shows_its_interval_and_what_is_open():
    pairs = [Pair({"c8": {"output_throughput": 100.0}}, {"c8": {"output_throughput": 99.0 + n % 2}}) for n in range(4)]
    comparison = compare(pairs, {"output_throughput": Tolerance(0.02)}, looks=Looks(budget=4))
    gate = Gate((Rule("not-worse.output_throughput", False, "Not resolved.", open=True),))
    lines = markdown_text([verified(Verification(baseline(), (), comparison=comparison), gate=gate)]).splitlines()
    assert lines[0] == "### chat: not resolved"
    assert "|  | at | change | from | to | allowed |  |" in lines
    assert lines[-1] == "- open: `not-worse.output_throughput`: Not resolved."


def test_the_history_of_a_verified_suite_stands_between_its_table_and_its_rules():
    gate = Gate((Rule("slo", True, "Fine."),))
    told = (series(*SLOWER), series(0.0, 0.02, metric="error_rate"), series(*SLOWER, metric="e2e.p99", version="<0_1>"))
    lines = markdown_text([verified(Verification(baseline(), ()), gate=gate, history=told)]).splitlines()
    assert lines[4:] == [
        "| history | at | trend | first → last | since the first | verifications |",
        "|---|---|---|---|---|---|",
        "| output throughput | c8 | `███████▁▁▁▁▁` | 200.00 tok/s → 152.00 tok/s | -24 % | 12 |",
        "| error rate | c8 | `▁█` | 0 % → 2 % | +2 pp | 2 |",
        "| e2e.p99 | c8 | `███████▁▁▁▁▁` | 200 s → 152 s | -24 % | 12 |",
        "",
        "- -25 % output throughput at c8 since commit 07c0ffee00 of 2026-01-09, engine 0.11.0",
        r"- -25 % e2e.p99 at c8 since commit 07c0ffee00 of 2026-01-09, engine &lt;0\_1&gt;",
        "",
        "- holds: `slo`: Fine.",
    ]
    without_change = markdown_text([verified(Verification(baseline(), ()), gate=gate, history=told[1:2])])
    assert without_change.splitlines()[6:] == ["| error rate | c8 | `▁█` | 0 % → 2 % | +2 pp | 2 |", "", lines[-1]]


def test_other_peoples_words_are_text_and_secrets_are_masked():
    gate = Gate((Rule("slo", False, "<b>|x|</b> `rm` *_* [a](b) sk-0123456789abcdefghij"),))
    line = markdown_text(
        [report(BEST, of=suite(fixed={"api-key": "sk-0123456789abcdefghij"}), gate=gate)]
    ).splitlines()[-1]
    assert line == r"- **broken**: `slo`: &lt;b&gt;\|x\|&lt;/b&gt; \`rm\` \*\_\* \[a\](b) \*\*\*"


def test_a_run_without_trials_says_so_without_a_table():
    text = markdown_text([report()])
    assert text.startswith("### chat: failed\n")
    assert "|" not in text
