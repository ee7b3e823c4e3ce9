"""Reports of everything that a verdict can be, for the tests of JUnit's readers and schemas."""

from dataclasses import replace

from pytest_autotune.gate import Gate, Rule, judge_verification
from pytest_autotune.held import Verification, hold
from pytest_autotune.suite_gate import Terms
from tests.make_baselines import baseline
from tests.make_records import batch, trial
from tests.make_reports import ARGV, BEST, DEFAULTS, REFUSED, VIOLATING, good, report, suite

ROOT = "/builds/chat"
LOG = f"{ROOT}/.autotune/chat/best/server.log"
SECRET = "very-secret-value"
TERMS = Terms({"output_throughput": 0.05})
THEN = {
    "c1": {"output_throughput": 45.0, "ttft.p90": 0.1},
    "c8": {"output_throughput": 200.0, "ttft.p90": 0.4},
}


def measured(*throughputs, ttft=0.394, gate=TERMS):
    """Return the report of a verification at c1 and c8, each throughput known to a percent."""
    batches = [
        replace(good(level, value, ttft=ttft), intervals={"output_throughput": (value / 1.01, value * 1.01)})
        for level, value in zip((1, 8), throughputs, strict=True)
    ]
    return verified(*batches, gate=gate)


def verified(*batches, gate=TERMS):
    served = replace(trial(1, *batches, configuration={"max-num-seqs": 64}, argv=ARGV), server_log=LOG)
    held = hold(THEN, batches, metrics=["output_throughput"], tolerances=gate.tolerances)
    verification = Verification(baseline(THEN), held)
    found = report(served, of=suite(gate=gate), verification=verification, root=ROOT)
    judged = found.selection.ranking[-1]
    return replace(found, gate=judge_verification(judged, verification, gate, again="pytest suites/chat.yaml"))


def undecided():
    """Return a verification one of whose rules is neither green nor red."""
    text = "Output throughput fell by 4 %, which is not told from the 5 % allowed. Measure longer."
    return replace(
        measured(45.0, 200.0),
        gate=Gate((Rule("slo", True, "fine"), Rule("not-worse.output_throughput", False, text, open=True))),
    )


def strange():
    """Return a report of a suite whose names and texts have all that a user or a server may put there."""
    words = f"\x1b[31mкрасный\x1b[0m \0\x0b\ud800\ufffe ]]> <&>\"' 模型 🚀 {SECRET}\r\nsecond\tline"
    died = batch(8, status="failed", reason=words)
    found = replace(
        trial(1, good(1, 50.0), died, configuration={"chat-template": words}, argv=ARGV, reason=words), server_log=words
    )
    gate = Gate((Rule("slo", False, words),))
    of = suite(name=f"Чат {words}", model=words, env={"HF_TOKEN": SECRET})
    return report(found, of=of, gate=gate, path=f"suites/{words}.yaml", gpu=words)


SEARCH = report(DEFAULTS, replace(BEST, server_log=LOG), VIOLATING, REFUSED, root=ROOT)
CASES = {
    "search": SEARCH,
    "nothing-selected": report(VIOLATING, REFUSED),
    "verified": measured(45.0, 200.0),
    "missed": measured(45.0, 200.0, ttft=0.612),
    "regressed": measured(45.0, 150.0),
    "red": measured(40.0, 150.0, ttft=0.612),
    "unmeasured": verified(good(1, 45.0), batch(8, status="failed", reason="timeout after 60 s")),
    "undecided": undecided(),
    "strange": strange(),
}
