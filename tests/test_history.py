"""The history of a suite: its verifications from the store, changes with their commits, and the command."""

import subprocess
import sys
from datetime import timedelta

import pytest

from pytest_autotune.beginning import VERIFIES
from pytest_autotune.history import history_of, verified_suites
from pytest_autotune.reporting.trend import change_sentences, history_lines, history_rows, sparkline
from pytest_autotune.slo import Status
from pytest_autotune.store import Store
from tests.make_baselines import baseline
from tests.make_history import SLOWER, series
from tests.make_records import START, batch

LOAD = {"prompt_tokens": 512, "concurrency": [8]}


@pytest.fixture
def store(tmp_path):
    (tmp_path / ".autotune").mkdir()
    with Store(f"sqlite:///{tmp_path / '.autotune' / 'results.db'}") as store:
        store.migrate()
        yield store


def verify(store, number, *measured, name="chat", slots=("best",), load=LOAD, hardware="2x H100", search=False):
    """Record a run, the number-th day's, in which these throughputs were measured, by slot."""
    run = f"run-{number:02d}"
    git = {"revision": f"{number:040x}"}
    store.begin_run(run, started_at=START + timedelta(days=number), environment={"git": git}, arguments=[])
    document = {"name": name, "load": load, "hardware": hardware, "engine_version": "0.11.0"}
    document |= {} if search else {VERIFIES: baseline().model_dump(mode="json", by_alias=True)}
    store.record_suite(run, name, suite=f"suites/{name}.yaml", document=document)
    for slot, throughput in zip(slots, measured, strict=True):
        claim = store.claim(run, name, slot, owner="me", fresh=True, choose=lambda _: {})
        store.record_batch(claim.trial.id, batch(8, output_throughput=throughput, ttft__p90=0.4), ())
        store.finish(claim.trial.id, status=Status.COMPLIANT, elapsed_s=1.0)


def values(several):
    return [[point.value for point in one.points] for one in several]


def test_each_metric_of_the_baseline_has_a_series_oldest_first(store):
    for number, throughput in enumerate([200.0, 210.0, 190.0]):
        verify(store, number, throughput)
    throughput, ttft = history_of(store, "chat")
    assert (throughput.level, throughput.metric, ttft.metric) == ("c8", "output_throughput", "ttft.p90")
    assert values([throughput, ttft]) == [[200.0, 210.0, 190.0], [0.4, 0.4, 0.4]]
    assert throughput.points[1].commit == f"{1:040x}"
    (chosen,) = history_of(store, "chat", ["ttft.p90"])
    assert chosen == ttft


def test_of_pairs_the_median_of_the_candidate_counts(store):
    verify(store, 0, 50.0, 100.0, 103.0, 90.0, slots=("baseline-1", "best-1", "best-2", "best-3"))
    assert values(history_of(store, "chat", ["output_throughput"])) == [[100.0]]


def test_what_is_not_comparable_with_the_newest_is_left_out(store):
    verify(store, 0, 1.0, load={**LOAD, "prompt_tokens": 64})
    verify(store, 1, 2.0, hardware="1x L4")
    verify(store, 2, 3.0, search=True)
    verify(store, 3, 4.0, name="other")
    verify(store, 4, 5.0, load={**LOAD, "concurrency": [8, 16], "workers": 2})
    verify(store, 5, 6.0)
    assert values(history_of(store, "chat", ["output_throughput"])) == [[5.0, 6.0]]
    assert verified_suites(store) == ("chat", "other")
    assert history_of(store, "nothing") == ()


def test_a_change_is_told_with_the_commit_that_it_came_with(store):
    for number in range(12):
        verify(store, number, (200.0 if number < 7 else 150.0) + number % 3)
    lines = history_lines("chat", history_of(store, "chat", ["output_throughput"]), width=100)
    assert lines == [
        "chat: 12 verifications, commit 0000000000 of 2026-01-02, engine 0.11.0 to commit 0000000000 of 2026-01-13, engine 0.11.0",
        "",
        "                     at                        last  since the first",
        "  output throughput  c8  ███████▁▁▁▁▁  152.00 tok/s            -24 %",
        "",
        "  -25 % output throughput at c8 since commit 0000000000 of 2026-01-09, engine 0.11.0",
    ]


def test_without_a_change_it_says_so(store):
    verify(store, 0, 0.0)
    lines = history_lines("chat", history_of(store, "chat", ["output_throughput"]))
    assert lines[-1] == "  no change of level was found"


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([1.0], "▁"), ([1.0, 1.0], "▁▁"), ([0.0, 7.0, 3.0], "▁█▄"), ([9.0] * 2 + [1.0] * 24, "▁" * 24)],
)
def test_a_sparkline_is_between_the_least_and_the_largest_it_shows(values, drawn):
    assert sparkline(values) == drawn


@pytest.mark.parametrize(
    ("measured", "first", "last", "change"),
    [
        (series(200.0, 190.0), "200.00 tok/s", "190.00 tok/s", "-5 %"),
        (series(0.394, 0.394, metric="ttft.p90"), "394 ms", "394 ms", "0 %"),
        (series(0.0, 0.02, metric="error_rate"), "0 %", "2 %", "+2 pp"),
        (series(0.0, 3.0, metric="goodput"), "0.00 req/s", "3.00 req/s", ""),
    ],
)
def test_a_row_has_the_first_and_the_last_value_and_their_difference(measured, first, last, change):
    (row,) = history_rows([measured])
    assert (row.first, row.last, row.change, row.verifications) == (first, last, change, len(measured.points))


@pytest.mark.parametrize(
    ("newest", "told"), [({}, True), ({"newest": 12}, True), ({"newest": 5}, True), ({"newest": 4}, False)]
)
def test_only_levels_that_began_in_the_newest_verifications_are_told(newest, told):
    wanted = ["-25 % output throughput at c8 since commit 07c0ffee00 of 2026-01-09, engine 0.11.0"]
    assert change_sentences([series(*SLOWER)], **newest) == (wanted if told else [])


def test_changes_of_several_series_are_told_oldest_first():
    early = series(*SLOWER[2:], metric="ttft.p90", level="c16")
    told = change_sentences([series(*SLOWER, commits=False, version=""), early])
    assert told == [
        "-25 % ttft.p90 at c16 since commit 05c0ffee00 of 2026-01-07, engine 0.11.0",
        "-25 % output throughput at c8 since run run-07 of 2026-01-09",
    ]


def history(directory, *arguments):
    command = [sys.executable, "-m", "pytest_autotune", "history", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_the_command_prints_the_history_of_the_store_here(store, tmp_path):
    verify(store, 0, 200.0)
    shown = history(tmp_path, "chat", "--metric", "ttft.p90")
    assert shown.returncode == 0
    assert shown.stdout.startswith("chat: 1 verification, ")
    assert "ttft.p90" in shown.stdout
    assert history(tmp_path.parent, "chat", "--store", str(tmp_path / ".autotune" / "results.db")).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chats"], "no verification of 'chats' is in the store (did you mean 'chat'?); there are chat"),
        (["chat", "--metric", "ttft"], "'ttft' is not a metric"),
        (["chat", "--store", "other.db"], "there is no store "),
    ],
)
def test_what_cannot_be_shown_is_one_line(store, tmp_path, arguments, told):
    verify(store, 0, 200.0)
    shown = history(tmp_path, *arguments)
    assert shown.returncode == 4
    assert len(shown.stderr.splitlines()) == 1
    assert told in shown.stderr


def test_a_store_without_verifications_says_where_they_come_from(store, tmp_path):
    store.migrate()
    shown = history(tmp_path, "chat")
    assert shown.returncode == 4
    assert "no verification of 'chat' is in the store; a run without --autotune verifies what was found" in shown.stderr


def test_the_page_is_written_beside_what_is_printed(store, tmp_path):
    verify(store, 0, 200.0)
    shown = history(tmp_path, "chat", "--html", "build/chat.html")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("chat: 1 verification, ")
    assert shown.stdout.endswith("\nwritten: build/chat.html\n")
    assert "<h1>chat</h1>" in (tmp_path / "build" / "chat.html").read_text()
    shown = history(tmp_path, "chat", "--html", "build")
    assert shown.returncode == 4
    assert shown.stderr.startswith("python -m pytest_autotune: --html build: ")
    assert len(shown.stderr.splitlines()) == 1


def test_without_what_draws_it_one_line_says_how_to_get_it(store, tmp_path):
    verify(store, 0, 200.0)
    script = "import sys; sys.modules['plotly'] = None; from pytest_autotune.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "history", "chat"]
    shown = subprocess.run([*command, "--html", "chat.html"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 4
    assert len(shown.stderr.splitlines()) == 1
    assert "pip install 'pytest-autotune[dashboard]'" in shown.stderr
    assert not (tmp_path / "chat.html").exists()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
