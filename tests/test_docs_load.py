"""docs/load.md and the README's section about it: every command runs, every option and field is there."""

import re
import shlex

import pytest

from pytest_autotune.load_command.document import LoadRun, batch_document, run_document
from pytest_autotune.load_command.measuring import measure
from pytest_autotune.load_command.options import OPTIONS, flag
from pytest_autotune.load_command.table import COLUMNS
from pytest_autotune.metrics import COUNTS, IN_FLIGHT, LATENCIES, PER_GPU, RATES, SHARES, STATISTICS, TIMES
from pytest_autotune.records import utc_now
from pytest_autotune.samples import Level
from tests.documents import ROOT, blocks, commands, table
from tests.loadcommand import load, start
from tests.make_loads import Handing, load_test, measurement
from tests.simserver import sim_server
from tests.test_load_reading import result

PATH = ROOT / "docs" / "load.md"
TEXT = PATH.read_text()
LOAD = [
    shlex.split(line)[4:] for path in (ROOT / "README.md", PATH) for line in commands(path) if "autotune load" in line
]
SERVE = [
    shlex.split(line)[3:] for path in (ROOT / "README.md", PATH) for line in commands(path) if "engines.sim" in line
]
QUICKLY = (("duration", "1s"), ("warmup", "200ms"))


@pytest.fixture(scope="module")
def server():
    with sim_server() as running:
        yield f"http://127.0.0.1:{running.port}"


@pytest.fixture
def directory(tmp_path):
    """Where a reader has saved the files that the page shows, and results of genai-bench."""
    trace, prompts = blocks(PATH, "json")
    (tmp_path / "trace.jsonl").write_text(trace)
    (tmp_path / "prompts.jsonl").write_text(prompts)
    (tmp_path / "results").mkdir()
    recorded = tmp_path / "results" / "D(100,100)_text-to-text_num_concurrency_2_time_60s.json"
    recorded.write_text(result([0.1, 0.2]))
    return tmp_path


def quick(arguments, server):
    """The same command for a server of the tests, with short windows."""
    words = [
        server if word == "http://127.0.0.1:8000" else re.sub(r"for \d+[sm]", "for 1s", word) for word in arguments
    ]
    if "--read" in words:
        return words
    shape = next(word for word in words if word in ("--concurrency", "--rate", "--burst", "--stages", "--replay"))
    if shape in ("--stages", "--replay"):
        return words
    for name, value in QUICKLY[: 1 if shape == "--burst" else 2]:
        words += [flag(name), value]
    if shape == "--rate":
        # Of random arrivals at 5/s, a second has none once in 148 times: always the same arrivals.
        words += [flag("seed"), "1"]
    return words


def test_there_are_commands_to_run():
    assert len(LOAD) >= 12
    assert len(SERVE) == 2
    shown = {word for words in LOAD for word in words if word.startswith("--")}
    assert {"--concurrency", "--rate", "--burst", "--stages", "--replay", "--read", "--dataset", "--slo"} <= shown


@pytest.mark.parametrize("arguments", LOAD, ids=" ".join)
def test_every_command_runs(arguments, server, directory):
    status, output, said = load(*quick(arguments, server), cwd=directory)
    # A busy machine may make a limit missed or an open loop late; nothing else may go wrong.
    assert status in (0, 1), output + said
    header = next(line for line in output.splitlines() if line.startswith("level"))
    assert header.split()[-1] == "verdict"
    assert ("--json" in arguments) is (directory / "load.json").exists()


@pytest.mark.parametrize("arguments", SERVE, ids=" ".join)
def test_the_server_that_is_shown_starts(arguments):
    words = ["0" if word == "8000" else word for word in arguments if word != "&"]
    with sim_server(*words) as running:
        assert running.get("/health")[0] == 200


def test_every_option_is_documented_with_its_default_and_meaning():
    documented = table(TEXT, "Options")
    assert list(documented) == [*(flag(name) for name in OPTIONS), "--json", "--read"]
    for name, option in OPTIONS.items():
        default, meaning = documented[flag(name)]
        assert default.strip("`") == (option.default or ("none" if option.metavar else "off")), name
        assert meaning.replace("\\|", "|").casefold() == f"{option.meaning}.".casefold()


def test_the_table_that_is_shown_has_the_columns_of_a_table():
    (shown,) = blocks(PATH, "text")
    assert shown.splitlines()[1].split() == " ".join(column.below for column in COLUMNS).split()


def test_every_field_of_the_json_is_documented():
    test = load_test(slo="ttft.p99<=1s")
    batch = measure(test, Level(1), Handing(measurement()))
    document = run_document(test, [batch], LoadRun(utc_now(), environment={}))
    section = TEXT.split("\n## JSON\n")[1].split("\n## ")[0]
    of_batch = section.split("### Each batch")[1]
    rows = table(TEXT, "JSON")
    assert rows.keys() == document.keys()
    for field in ("target", "run"):
        assert re.findall(r"`(\w+)`", rows[field][0]) == list(document[field])
    assert all(f"`{statistic}`" in of_batch for statistic in STATISTICS)
    metrics = {*TIMES, *RATES, *(rate + PER_GPU for rate in RATES), *SHARES, *COUNTS, IN_FLIGHT}
    fields = batch_document(batch).keys() - (metrics - {*LATENCIES, "delivered"})
    assert {field for field in fields if f"`{field}`" not in of_batch} == set()


def test_exit_statuses_are_those_of_the_help():
    with start("load", "--help") as process:
        shown = " ".join(process.communicate(timeout=300)[0].split())
    told = re.findall(r"(?:^|; )(\d)", shown.split("exit status: ")[1])
    assert told == re.findall(r"^\| (\d) \|", TEXT, re.MULTILINE) == list("01234")


def test_the_test_that_is_shown_passes(pytester, server):
    (shown,) = blocks(PATH, "python")
    pytester.makeconftest("""
        from dataclasses import replace
        from pytest_autotune.load import http
        from pytest_autotune.load_command import single

        class Tolerant(http.HttpLoad):
            def run(self, *arguments, **keywords):
                measurement = super().run(*arguments, **keywords)
                return replace(measurement, client=replace(measurement.client, saturated=None))

        single.HttpLoad = Tolerant
    """)
    pytester.makepyfile(shown.replace("http://127.0.0.1:8000", server).replace('duration="10s"', 'duration="2s"'))
    outcome = pytester.runpytest_subprocess("-p", "no:benchmark", "-p", "no:cacheprovider", timeout=600)
    outcome.assert_outcomes(passed=1)
