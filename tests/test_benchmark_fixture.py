"""The fixture `benchmark` in tests of a user's own, alone and beside pytest-benchmark's of the same name."""

import xml.etree.ElementTree as ET

import pytest

from tests.simserver import sim_server

# Takes every measurement, as tests/conftest.py says why; `saturate` is the opposite.
CONFTEST = """\
from dataclasses import replace

import pytest

from pytest_autotune.load import http
from pytest_autotune.load_command import single

QUICK = {"duration": 1, "warmup": "200ms", "prompt_tokens": 32, "output_tokens": 8}

class Stubborn(http.HttpLoad):
    saturated = None
    def run(self, *arguments, **keywords):
        measurement = super().run(*arguments, **keywords)
        return replace(measurement, client=replace(measurement.client, saturated=self.saturated))

@pytest.fixture(autouse=True)
def stubborn(monkeypatch):
    monkeypatch.setattr(single, "HttpLoad", Stubborn)

@pytest.fixture
def saturate(monkeypatch):
    monkeypatch.setattr(Stubborn, "saturated", "client saturated: told so")

@pytest.fixture
def url():
    return {url!r}

@pytest.fixture
def quick():
    return QUICK
"""


@pytest.fixture(scope="module")
def server():
    with sim_server() as running:
        yield f"http://127.0.0.1:{running.port}"


@pytest.fixture
def run(pytester, server):
    """Run tests that a user wrote; pytest-benchmark is there when asked for."""

    def run_pytest(text, *arguments, other=False):
        pytester.makeconftest(CONFTEST.replace("{url!r}", repr(server)))
        pytester.makepyfile(text)
        without = [] if other else ["-p", "no:benchmark"]
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *without, *arguments, timeout=600)

    return run_pytest


def test_a_test_loads_a_server_and_asserts_what_it_likes(run):
    result = run("""
        def test_server(benchmark, url, quick):
            result = benchmark(url, concurrency=2, slo="e2e.p99<=60s", **quick)
            assert 0 < result.ttft.p50 <= result.ttft.p99 < 10
            assert result["output_throughput"] > 0
            assert result.error_rate == 0
            assert result.compliant
            assert result.level.concurrency == 2
            assert len(result.samples) == result.requests
            assert result.errors == {}
            assert result.client.workers >= 1
            assert 0 < result.delivered <= 1
            assert result.document()["ttft"]["p99"] == result.ttft.p99
            missed = benchmark(url, concurrency=1, slo={"ttft.p99": "1us"}, **quick)
            assert not missed.compliant
            assert missed.seed != result.seed
    """)
    result.assert_outcomes(passed=1)


def test_a_failed_assertion_names_metric_and_value(run):
    result = run("""
        def test_server(benchmark, url, quick):
            assert benchmark(url, concurrency=1, **quick).ttft.p99 < 1e-9
    """)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"E +AssertionError: assert ttft\.p99 \S+ m?s < 1e-09"])


def test_results_reach_junit_by_level(run, pytester):
    run(
        """
        def test_server(load_benchmark, url, quick):
            for _ in range(2):
                load_benchmark(url, concurrency=1, **quick)
        """,
        "--junitxml=report.xml",
    ).assert_outcomes(passed=1)
    properties = {
        element.get("name"): element.get("value")
        for element in ET.parse(pytester.path / "report.xml").getroot().iter("property")
    }
    assert float(properties["c1.ttft.p99"]) > 0
    assert float(properties["c1#2.output_throughput"]) > 0
    assert properties["c1.verdict"] == "compliant"


def test_a_saturated_client_raises(run):
    result = run("""
        import pytest
        from pytest_autotune.errors import ClientSaturated

        def test_server(benchmark, url, quick, saturate):
            with pytest.raises(ClientSaturated, match="^concurrency=1: no data: client saturated: told so$"):
                benchmark(url, concurrency=1, **quick)
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("url, concurency=1", r"SuiteError: concurency is not an option \(did you mean 'concurrency'\?\)"),
        ("url, concurrency=1, duration='30'", "SuiteError: duration: '30' has no unit"),
        ("url, concurrency=[1, 8]", r"SuiteError: 2 load levels \(concurrency=1, concurrency=8\) in one call"),
        ("url", "SuiteError: no load level: give one of concurrency, rate, burst, stages, replay"),
        ("'http://127.0.0.1:1', concurrency=1", "BenchmarkError: http://127.0.0.1:1 cannot be reached"),
        ("url, concurrency=1, model='x', **quick", r"BenchmarkError: concurrency=1: no data: no request succeeded"),
    ],
)
def test_what_cannot_be_measured_raises_and_says_why(run, call, error):
    result = run(f"""
        def test_server(benchmark, url, quick):
            benchmark({call})
    """)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([rf"E +pytest_autotune\.errors\.{error}.*"])


BOTH = """
    def test_theirs(benchmark):
        assert benchmark(lambda: 3) == 3

    def test_ours(load_benchmark, url, quick):
        assert load_benchmark(url, concurrency=1, **quick).requests > 0
"""


def test_beside_pytest_benchmark_the_short_name_is_theirs_and_the_header_says_so(run):
    result = run(BOTH, other=True)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["autotune: the fixture benchmark is that of plugin benchmark; load_benchmark loads a server"]
    )


def test_with_pytest_benchmark_switched_off_both_names_are_ours(run):
    result = run("""
        def test_ours(benchmark, load_benchmark):
            assert benchmark is load_benchmark
    """)
    result.assert_outcomes(passed=1)
    assert "the fixture benchmark" not in result.stdout.str()


def test_a_fixture_of_the_users_own_overrides_ours(run, pytester):
    pytester.makepyfile(
        test_own="""
        import pytest

        @pytest.fixture
        def benchmark():
            return "mine"

        def test_mine(benchmark):
            assert benchmark == "mine"
    """
    )
    result = run("def test_nothing(): pass")
    result.assert_outcomes(passed=2)
    assert "the fixture benchmark" not in result.stdout.str()


def test_it_works_on_workers_too(run, pytester):
    result = run(
        """
        def test_server(benchmark, url, quick):
            assert benchmark(url, concurrency=1, **quick).requests > 0
        """,
        "-n1",
        "--junitxml=report.xml",
    )
    result.assert_outcomes(passed=1)
    assert "c1.ttft.p99" in (pytester.path / "report.xml").read_text()
