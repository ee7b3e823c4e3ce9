"""A load test as a table, as findings and as JSON."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.load.generator import Progress
from pytest_autotune.load_command.document import LoadRun, batch_document, json_text, nested, run_document
from pytest_autotune.load_command.live import Lines, LiveTable
from pytest_autotune.load_command.measuring import measure
from pytest_autotune.load_command.table import COLUMNS, batch_line, client_share, finding_lines, row, table_lines
from pytest_autotune.metrics import LATENCIES, STATISTICS
from pytest_autotune.records import utc_now
from pytest_autotune.samples import Level, Measurement
from tests.make_loads import BUSY, HEALTHY, KEY, Handing, load_test, measurement, sample

SLO = "ttft.p99<=10ms"
ONE = Level(1)


RATE = Level(5.0, "rate")


def batch(measured, **options):
    return measure(load_test(**options), measured.level, Handing(measured, measured))


def test_a_table_has_a_row_for_each_level_and_aligned_columns():
    batches = [batch(measurement()), batch(measurement(90, level=Level(64)), slo=SLO)]
    above, below, *rows = table_lines(batches, load_test(slo=SLO).limits)
    assert below.split("  ")[0] == "level"
    assert [line.split()[0] for line in rows] == ["c1", "c64"]
    assert [line.split()[-1] for line in rows] == ["compliant", "violating"]
    for line in (above, *rows):
        assert len(line) <= len(below) + len("violating")
    start = below.index("p50 ms")
    assert above[start : start + 6].strip() == "TTFT"
    assert rows[0][start : start + 6].strip() == "50.00"


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("level", "c1"),
        ("requests", "10"),
        ("failed", "0"),
        ("p50 ms", "50.00"),
        ("tok/s", "11.00"),
        ("req/s", "1.00"),
        ("delivered", "99.5 %"),
        ("client", "0.6 %"),
        ("verdict", "measured"),
    ],
)
def test_a_row_shows_what_was_measured(column, cell):
    cells = row(batch(measurement(delivered=0.995)), ())
    assert cells[[c.below for c in COLUMNS].index(column)] == cell


def test_columns_without_any_value_are_left_out():
    empty = batch(measurement(0, failed=["reset"]))
    header = "\n".join(table_lines([empty], ())[:2])
    assert "TTFT" not in header
    assert "failed" in header
    assert "TTFT" in "\n".join(table_lines([empty, batch(measurement())], ())[:2])


@pytest.mark.parametrize(("width", "absent"), [(200, set()), (100, {"client"}), (80, {"client", "delivered", "req/s"})])
def test_a_narrow_terminal_loses_the_least_important_columns_first(width, absent):
    lines = table_lines([batch(measurement(), slo=SLO)], load_test(slo=SLO).limits, width=width)
    assert max(map(len, lines)) <= width
    assert not absent & set(lines[1].split())
    assert {"level", "failed", "tok/s", "verdict"} <= set(lines[1].split())


def test_the_share_of_the_client_is_its_delays_in_each_latency():
    share = client_share(batch(measurement()))
    late = HEALTHY.send_p99_s + HEALTHY.lag_p99_s
    assert share["ttft"] == pytest.approx(late / 0.05)
    assert share["e2e"] == pytest.approx(late / 0.15)
    assert share["itl"] == pytest.approx(HEALTHY.lag_p99_s / 0.01)


def drifting():
    """Each request takes a little longer than the one before."""
    samples = [sample(number / 20, ttft=0.05 + number / 1000) for number in range(190)]
    return Measurement(ONE, samples, 10.0, 0, HEALTHY, {})


@pytest.mark.parametrize(
    ("measured", "options", "finding"),
    [
        (measurement(), {"slo": SLO}, "concurrency=1: SLO missed: ttft.p99: 50 ms > 10 ms (+400 %)"),
        (
            measurement(7, failed=["timeout", "http-503", "http-503"]),
            {},
            "concurrency=1: 3 of 10 requests failed: http-503 2, timeout 1",
        ),
        (
            measurement(0, failed=["http-401"]),
            {},
            "concurrency=1: 1 of 1 requests failed: http-401 1; give a key with --api-key",
        ),
        (measurement(client=BUSY), {}, f"concurrency=1: {BUSY.saturated}"),
        (measurement(level=RATE, delivered=0.5), {}, "rate=5/s: 50 % of the load was delivered (at least 98 %)"),
        (drifting(), {}, "concurrency=1: not steady: drifting: "),
        (measurement(stopped="interrupted"), {}, "concurrency=1: stopped after 10.0 s: interrupted"),
        (measurement(0), {}, "concurrency=1: no data: no request was sent inside the window; measure for longer"),
    ],
)
def test_each_finding_is_one_line(measured, options, finding):
    (line,) = finding_lines([batch(measured, **options)])
    assert line == finding or (finding.endswith(": ") and line.startswith(finding))


def test_a_batch_without_findings_has_no_line():
    assert finding_lines([batch(measurement(), slo="ttft.p99<=1s")]) == []


def test_a_saturated_batch_does_not_speak_of_its_limits():
    assert finding_lines([batch(measurement(client=BUSY), slo=SLO)]) == [f"concurrency=1: {BUSY.saturated}"]


def test_words_of_a_server_stay_on_their_line_and_tell_no_secret():
    odd = measurement(stopped=f"a\nb\x1b[31m {KEY}")
    (line,) = finding_lines([batch(odd)], (KEY,))
    assert line == "concurrency=1: stopped after 10.0 s: a b [31m ***"


def test_a_log_gets_one_line_for_each_batch():
    written = []
    test = load_test(slo=SLO)
    with Lines(test, written.append) as lines:
        lines.progress(Level(1), Progress("measure", 1.0, 35.0, 3, 0, 0.05))
        lines.finished(batch(measurement(), slo=SLO))
    assert written == [batch_line(batch(measurement(), slo=SLO), test.limits)]
    assert written[0].startswith("concurrency=1: requests 10, failed 0, ttft.p50 50 ms, ")
    assert written[0].endswith(", violating")


def test_a_live_table_shows_every_level_as_it_stands():
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), force_terminal=True, width=200)
    with LiveTable(load_test(concurrency="1,8,64"), console) as live:
        live.finished(batch(measurement()))
        live.progress(Level(8), Progress("measure", 12.4, 35.0, 40, 2, 0.0123, 8, 1234.5))
        console.print(live.table())
    shown = console.file.getvalue().replace("\x1b[1m", "").splitlines()
    last = {line.split()[0]: line.split() for line in shown if line.split()[:1]}
    assert last["c1"][1:4] == ["10", "0", "50.00"]
    assert last["c8"][1:4] == ["42", "2", "12.30"]
    assert "1234.50" in last["c8"]
    assert " ".join(last["c8"][-6:]) == "measure 12/35 s, 8 in flight"
    assert last["c64"][-1] == "waits"


def test_a_batch_is_a_document_with_its_statistics_nested_in_seconds():
    document = batch_document(batch(measurement(9, failed=["reset"]), slo="ttft.p99<=1s,error_rate<=10%"))
    assert document["concurrency"] == 1
    assert document["ttft"]["p99"] == pytest.approx(0.05)
    assert document["tpot"]["mean"] == pytest.approx(0.01)
    assert all(set(STATISTICS) <= document[family].keys() for family in LATENCIES)
    assert (document["requests"], document["failed"], document["error_rate"]) == (10, 1, 0.1)
    assert document["output_throughput"] == pytest.approx(9.9)
    assert document["errors"] == {"reset": 1}
    assert document["verdict"]["status"] == "compliant"
    assert document["verdict"]["checks"][0]["max"] == 1.0
    assert document["health"]["share"]["ttft"] > 0
    assert (document["window_s"], document["delivered"]) == (10.0, 1.0)
    assert document["intervals"]["ttft"]["mean"] == pytest.approx([0.05, 0.05])
    assert document["intervals"]["error_rate"][0] < 0.1 < document["intervals"]["error_rate"][1]
    assert document["steady"].startswith("not tested: 9 successful requests are too few")


@pytest.mark.parametrize(
    ("level", "key", "value"),
    [(Level(2.5, "rate"), "rate", 2.5), (Level(10.0, "rate"), "rate", 10), (Level(100, "burst"), "burst", 100)],
)
def test_a_document_names_its_level_by_its_shape(level, key, value):
    document = batch_document(batch(measurement(level=level)))
    assert (document["level"], document[key]) == (level.name, value)


@given(st.dictionaries(st.sampled_from([f"{f}.{s}" for f in LATENCIES for s in STATISTICS]), st.floats(0, 9)))
def test_nested_statistics_are_all_that_there_were(metrics):
    document = nested(metrics)
    assert {f"{family}.{name}": value for family in LATENCIES for name, value in document[family].items()} == metrics


def test_a_run_is_json_without_secrets_or_infinite_numbers():
    test = load_test(concurrency=None, rate="5", arrivals="constant", api_key=KEY, header="x-api-key: other-secret")
    assert test.workload.arrivals.burstiness == math.inf
    measured = measurement(level=RATE, stopped=f"the server said {KEY}")
    run = LoadRun(utc_now(), environment={"python": "3"})
    text = json_text(run_document(test, [batch(measured)], run))
    assert KEY not in text
    assert "other-secret" not in text
    document = json.loads(text)
    assert document["options"] == {
        "url": "http://127.0.0.1:8000",
        "model": "m",
        "rate": "5",
        "seed": "1",
        "arrivals": "constant",
    }
    assert document["target"]["token_ids"] is False
    assert document["run"]["finished_at"] is None
    assert document["batches"][0]["rate"] == 5
