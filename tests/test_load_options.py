"""Options of a load, as a command line and as Python have them, turned into what is measured."""

import argparse
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.errors import SuiteError
from pytest_autotune.load.generator import Arrivals, Row, Stage
from pytest_autotune.load.lengths import AtLeast, Fixed, Uniform
from pytest_autotune.load_command.loadtest import read_load_test
from pytest_autotune.load_command.options import API_KEY_VARIABLE, OPTIONS, Written, add_options, flag, keyword
from pytest_autotune.metrics import LATENCIES, STATISTICS
from pytest_autotune.samples import Level
from pytest_autotune.slo import ERROR_RATE, Limit

URL = {"url": "http://127.0.0.1:8000"}


def read(label=flag, **options):
    return read_load_test(Written({**URL, "concurrency": "1", **options}, label=label))


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"concurrency": "1,8,64"}, [Level(1), Level(8), Level(64)]),
        ({"concurrency": " 8 , 1 "}, [Level(8), Level(1)]),
        ({"concurrency": 8}, [Level(8)]),
        ({"concurrency": [1, 8]}, [Level(1), Level(8)]),
        ({"rate": "5,10.5"}, [Level(5.0, "rate"), Level(10.5, "rate")]),
        ({"rate": 0.5}, [Level(0.5, "rate")]),
        ({"burst": "100"}, [Level(100, "burst")]),
        ({"stages": "5 for 30s"}, [Level(1, "stages")]),
    ],
    ids=str,
)
def test_levels_of_every_shape_are_read(options, levels):
    assert list(read_load_test(Written({**URL, **options})).levels) == levels


@pytest.mark.parametrize(
    ("option", "value", "field", "expected"),
    [
        ("prompt_tokens", "64", "prompt_tokens", Fixed(64)),
        ("prompt_tokens", "U(100,500)", "prompt_tokens", AtLeast(1, Uniform(100, 499))),
        ("prompt_tokens", {"uniform": [100, 500]}, "prompt_tokens", Uniform(100, 500)),
        ("output_tokens", 32, "output_tokens", Fixed(32)),
        ("duration", "2m", "duration_s", 120.0),
        ("duration", 2.5, "duration_s", 2.5),
        ("warmup", "0s", "warmup_s", 0.0),
        ("request_timeout", "500ms", "request_timeout_s", 0.5),
        ("max_requests", "100", "max_requests", 100),
        ("max_errors", "10", "max_errors", 10),
        ("max_errors", "5%", "max_error_share", 0.05),
        ("max_errors", 0.05, "max_error_share", 0.05),
        ("seed", "0", "seed", 0),
        ("workers", "auto", "workers", None),
        ("workers", "2", "workers", 2),
        ("turns", "3", "turns", Fixed(3)),
        ("prefix_tokens", "100", "prefix_tokens", 100),
    ],
)
def test_what_is_written_reaches_the_workload(option, value, field, expected):
    assert getattr(read(**{option: value}).workload, field) == expected


@pytest.mark.parametrize(
    ("written", "arrivals"),
    [("poisson", Arrivals(1.0)), ("constant", Arrivals(math.inf)), ("0.5", Arrivals(0.5)), (2, Arrivals(2.0))],
)
def test_arrivals_are_named_or_a_burstiness(written, arrivals):
    test = read_load_test(Written({**URL, "rate": "5", "arrivals": written}))
    assert test.workload.arrivals == arrivals


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://models.example/team/v1/", "https://models.example/team"),
        ("unix:///run/vllm.sock", "unix:///run/vllm.sock"),
    ],
)
def test_a_base_url_may_have_a_path_and_be_a_socket(url, expected):
    assert read(url=url).target.url == expected


@pytest.mark.parametrize(
    ("slo", "limits"),
    [
        (None, ()),
        ("ttft.p90<=500ms", (Limit("ttft.p90", 0.5),)),
        ("ttft.p99.9 <= 2s", (Limit("ttft.p99.9", 2.0),)),
        (
            ["error_rate<=1%", "output_throughput>=100"],
            (Limit("error_rate", 0.01), Limit("output_throughput", 100, floor=True)),
        ),
        ("failed<=0,request_throughput>=1.5", (Limit("failed", 0), Limit("request_throughput", 1.5, floor=True))),
        ({"e2e.p99": "2s", "goodput": 5}, (Limit("e2e.p99", 2.0), Limit("goodput", 5.0, floor=True))),
    ],
    ids=str,
)
def test_limits_are_read_with_the_units_of_suites(slo, limits):
    assert tuple(limit for limit in read(slo=slo).limits if limit != ERROR_RATE or limit in limits) == limits


@pytest.mark.parametrize(
    ("slo", "implied"),
    [(None, False), ("ttft.p90<=1s", True), ("error_rate<=5%", False), (["failed<=3", "error_rate<=2%"], False)],
    ids=str,
)
def test_whoever_has_a_limit_has_one_on_errors_too(slo, implied):
    assert (ERROR_RATE in read(slo=slo).limits) is implied


@given(st.sampled_from(LATENCIES), st.sampled_from(STATISTICS), st.integers(1, 10**6), st.sampled_from(["<=", ">="]))
def test_any_latency_can_have_any_limit(family, statistic, bound_ms, relation):
    limit, _ = read(slo=f"{family}.{statistic}{relation}{bound_ms}ms").limits
    assert (limit.metric, limit.floor) == (f"{family}.{statistic}", relation == ">=")
    assert limit.bound == pytest.approx(bound_ms / 1000)


WRONG = [
    ({"concurrency": None}, "no load level: give one of --concurrency, --rate, --burst, --stages, --replay"),
    ({"rate": "5"}, "--concurrency and --rate: give one of"),
    ({"url": None}, "--url: is missing; write the base URL"),
    ({"url": "127.0.0.1:8000"}, "--url: '127.0.0.1:8000' is not a URL"),
    ({"url": "unix://socket"}, "--url: 'unix://socket' is not the URL of a socket; write unix:///path/to/socket"),
    ({"concurrency": "1,8,1"}, "--concurrency: concurrency=1 is listed twice; remove one"),
    ({"concurrency": "0"}, "--concurrency: 0 is too small; write a whole number of at least 1"),
    ({"concurrency": "4k"}, "--concurrency: '4k' is ambiguous; write 4000 or 4096"),
    ({"concurrency": "1,,8"}, "--concurrency: '1,,8' lists nothing between two commas"),
    ({"concurrency": "1.5"}, "--concurrency: '1.5' is not a whole number"),
    ({"concurrency": None, "rate": "0"}, "--rate: '0' is not a number above 0"),
    ({"concurrency": None, "rate": "fast"}, "--rate: 'fast' is not a number"),
    ({"concurrency": None, "rate": "inf"}, "--rate: 'inf' is not a number above 0"),
    ({"duration": "30"}, "--duration: '30' has no unit; write '30s' or '30ms'"),
    ({"duration": "0s"}, "--duration: '0s' must be longer than 0"),
    ({"duration": "30 sceonds"}, "--duration: '30 sceonds' is not a duration (did you mean '30s'?)"),
    ({"warmup": "-1s"}, "--warmup: '-1s' is negative"),
    ({"prompt_tokens": "none"}, "--prompt-tokens: 'none' is not"),
    ({"api": "chats"}, "--api: 'chats' is not an API (did you mean 'chat'?); use completions, chat, embeddings or rerank"),
    ({"api": "chat", "token_ids": True}, "--token-ids: chat takes text only"),
    ({"workers": "all"}, "--workers: 'all' is not a whole number"),
    ({"max_errors": "200%"}, "--max-errors: '200%' is more than 100%"),
    ({"arrivals": "constant"}, "--arrivals: means something with --rate or --stages only"),
    ({"max_concurrency": "4"}, "--max-concurrency: means something with --rate or --burst or --stages or --replay only"),
    ({"think_time": "1s"}, "--think-time: means something with --turns or --dataset only"),
    ({"prefix_groups": "4"}, "--prefix-groups: means something with --prefix-tokens only"),
    ({"prefix_tokens": "512"}, "--prefix-tokens: 512 leaves nothing of prompts of 512 tokens"),
    ({"concurrency": None, "rate": "1", "arrivals": "poison"}, "--arrivals: 'poison' is no way to arrive (did you mean 'poisson'?)"),
    ({"prompt_tokens": "X(1,2)"}, "--prompt-tokens: 'X(1,2)' is not a length"),
    ({"scenario": "D(100)"}, "--scenario: 'D(100)' is not a scenario of kind D"),
    ({"scenario": "D(1,1)", "prompt_tokens": "5"}, "--prompt-tokens: --scenario says that already; remove one"),
    ({"scenario": "D(1,1)", "api": "rerank"}, "--api: scenario D(1,1) is for completions or chat, not rerank"),
    ({"scenario": "dataset"}, "--scenario: dataset needs --dataset"),
    ({"api": "embeddings", "output_tokens": "5"}, "--output-tokens: embeddings generates nothing"),
    ({"documents": "5"}, "--documents: completions has no documents; remove it, or use --api rerank"),
    ({"dataset": "/no/such.jsonl"}, "/no/such.jsonl: there is no such file"),
    ({"shuffle": True}, "--shuffle: means something with --dataset only"),
    ({"concurrency": None, "burst": "5", "warmup": "1s"}, "--warmup: a burst meets a server at rest; remove it"),
    ({"concurrency": None, "stages": "5"}, "--stages: '5' is not a stage; write '5 for 30s', or '5..50 for 30s'"),
    ({"concurrency": None, "stages": "0 for 5s"}, "--stages: '0 for 5s' is no load"),
    ({"concurrency": None, "stages": "1 for 5s", "duration": "5s"}, "--duration: the stages say how long"),
    ({"concurrency": None, "stages": "1 for 5s", "warmup": "5s"}, "--warmup: is a part of the stages, and takes all"),
    ({"concurrency": None, "stages": "1 for 5s", "stages_of": "rates"}, "(did you mean 'rate'?); use rate or concurrency"),
    ({"slo": "ttft.p90=500ms"}, "--slo: 'ttft.p90=500ms' is not a limit; write a metric, <= or >=, and a value"),
    ({"slo": "ttft<=500ms"}, "--slo: 'ttft' is a distribution; add a statistic: ttft.p90"),
    ({"slo": "ttfs.p90<=500ms"}, "--slo: 'ttfs.p90' is not a metric; did you mean 'ttft.p90'?"),
    ({"slo": "cost_per_million_tokens<=1"}, "needs a price, which only a suite has; use total_throughput"),
    ({"slo": "ttft.p90<=500"}, "500 has no unit; write '500s' or '500ms'"),
    ({"slo": "error_rate<=5"}, "5 is not a share below 1 (did you mean '5%'?)"),
    ({"slo": "steepness<=1"}, "--slo: 'steepness' is not a metric"),
    ({"header": "x-team"}, "--header: a header has no colon; write 'name: value'"),
    ({"header": "x team: a"}, "--header: 'x team' is not the name of a header"),
    ({"header": "Host: example"}, "--header: host is set by the client itself; remove it"),
    ({"header": ["x-a: 1", "X-A: 2"]}, "--header: x-a is given twice; remove one"),
    ({"header": "x-a: \u00e9"}, "--header: x-a holds a character that HTTP does not allow"),
    ({"api_key": "k\n"}, "--api-key: holds a character that HTTP does not allow"),
    ({"api_key": "k", "header": "Authorization: Basic x"}, "--api-key: --header gives an authorization too"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_option_is_one_line_that_names_it(options, message):
    with pytest.raises(SuiteError) as error:
        read(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_errors_name_keywords_as_python_has_them():
    with pytest.raises(SuiteError, match=r"^request_timeout: '30' has no unit"):
        read(label=keyword, request_timeout="30")
    with pytest.raises(SuiteError, match=r"^concurency is not an option \(did you mean 'concurrency'\?\)"):
        read(label=keyword, concurency=4)


def test_a_key_is_sent_and_never_shown(monkeypatch):
    test = read(api_key="sk-under-the-doormat", header=["X-Team: blue"])
    assert test.target.headers == {"authorization": "Bearer sk-under-the-doormat", "x-team": "blue"}
    assert "sk-under-the-doormat" in test.secrets
    assert "sk-under-the-doormat" not in str(test.options)
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-of-the-environment")
    assert read().target.headers == {"authorization": "Bearer sk-of-the-environment"}
    assert read(api_key="sk-given").target.headers == {"authorization": "Bearer sk-given"}
    assert read(header="Authorization: Basic eA==").target.headers["authorization"] == "Basic eA=="


def test_a_scenario_says_lengths_and_what_api_it_is_for():
    test = read(scenario="D(100,50)")
    assert (test.workload.prompt_tokens, test.workload.output_tokens) == (Fixed(100), Fixed(50))
    assert read(scenario="E(1024)").target.api == "embeddings"
    ranking = read(scenario="R(1024,100)")
    assert ranking.target.api == "rerank"
    assert (ranking.workload.prompt_tokens, ranking.workload.query_tokens) == (Fixed(1024), Fixed(100))
    assert read(scenario="D(100,50)", api="chat").target.api == "chat"


def test_stages_are_one_level_whose_window_is_what_the_warm_up_leaves():
    test = read_load_test(Written({**URL, "stages": "5 for 30s, 5..50 for 1m", "warmup": "10s"}))
    assert test.workload.stages == (Stage(30.0, 5.0, 5.0), Stage(60.0, 5.0, 50.0))
    assert (test.workload.warmup_s, test.workload.duration_s, test.planned_s) == (10.0, 80.0, 90.0)
    assert read_load_test(Written({**URL, "stages": "5 for 30s"})).workload.warmup_s == 0
    assert (
        read_load_test(Written({**URL, "stages": "0..8 for 30s", "stages_of": "concurrency"})).workload.stages_of
        == "concurrency"
    )


def test_a_burst_ends_with_its_last_answer():
    test = read_load_test(Written({**URL, "burst": "10,20"}))
    assert [test.workload_at(level).max_requests for level in test.levels] == [10, 20]


def test_a_dataset_gives_rows_and_its_text_needs_no_lengths(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one", "output_tokens": 5}\n{"prompt": "two"}\n')
    test = read(dataset=str(path), shuffle=True)
    assert test.workload.rows == (Row("one", output_tokens=5), Row("two"))
    assert test.workload.shuffle
    assert not test.made_up
    assert read(dataset=path, limit="1").workload.rows == (Row("one", output_tokens=5),)


def test_a_trace_lasts_as_long_as_it_was_recorded_over_its_speed(tmp_path):
    path = tmp_path / "trace.jsonl"
    lines = [
        f'{{"timestamp": {at}, "input_length": 10, "output_length": 5, "hash_ids": [{at}]}}' for at in (0, 1000, 2000)
    ]
    path.write_text("\n".join(lines))
    test = read_load_test(Written({**URL, "replay": str(path), "speed": "1,2"}))
    assert test.workload.times_s == (0.0, 1.0, 2.0)
    assert test.levels == (Level(1.0, "replay"), Level(2.0, "replay"))
    assert [test.workload_at(level).duration_s for level in test.levels] == [3.0, 1.5]
    assert test.planned_s == 4.5
    assert test.made_up
    shorter = read_load_test(Written({**URL, "replay": str(path), "duration": "1s"}))
    assert shorter.workload_at(shorter.levels[0]).duration_s == 1.0


def test_equal_seeds_give_each_level_the_same_requests_whatever_stands_beside_it():
    alone, among = read(seed="7", concurrency="8"), read(seed="7", concurrency="1,8")
    assert alone.workload_at(Level(8)) == among.workload_at(Level(8))
    seeds = {among.workload_at(level, attempt=attempt).seed for level in among.levels for attempt in (1, 2)}
    assert len(seeds) == 4


def test_without_a_seed_no_two_tests_send_the_same_requests():
    assert read().workload.seed != read().workload.seed


def test_a_parser_has_every_option_and_what_was_not_given_is_none():
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert set(vars(parser.parse_args([])).values()) == {None}
    assert vars(parser.parse_args([])).keys() == OPTIONS.keys()
    given_all = parser.parse_args(["--slo", "a", "--slo", "b", "--ignore-eos", "--think-time", "1s"])
    assert (given_all.slo, given_all.ignore_eos, given_all.think_time) == (["a", "b"], True, "1s")
    assert "5%" in parser.format_help()
