"""The `load:` block of a suite: what each way of writing it means, and what identifies a measurement."""

import json
import math

import jsonschema
import pytest

from pytest_autotune.errors import MissingRequirement, SuiteError
from pytest_autotune.load.generator import Arrivals, Stage
from pytest_autotune.load.lengths import Empirical, Fixed, LogNormal, Normal, Uniform
from pytest_autotune.load.plan import batch_seed, headers_of, lacking, levels_of, secrets_of, workload_of
from pytest_autotune.samples import Level
from pytest_autotune.slo import Limit
from pytest_autotune.suite import LoadBlock
from pytest_autotune.suite_file import load_suite
from pytest_autotune.suite_schema import suite_schema
from pytest_autotune.yaml_source import read_yaml

HEAD = "name: chat\nengine: sim\nmodel: llama\n"
VALIDATOR = jsonschema.Draft202012Validator(suite_schema())


@pytest.fixture
def suite(tmp_path):
    def suite(load, head=HEAD):
        file = tmp_path / "chat.yaml"
        file.write_text(f"{head}load: {load}\n")
        loaded = load_suite(file)
        VALIDATOR.validate(read_yaml(file).value)
        return loaded

    return suite


def workload(suite, level=None):
    levels = levels_of(suite.load)
    return workload_of(suite.load, level or levels[0], directory=suite.path.parent, seed=7)


LEVELS = {
    "defaults": ("{}", [Level(1), Level(4), Level(16), Level(64)]),
    "one concurrency": ("{concurrency: 8}", [Level(8)]),
    "one rate": ("{rate: 5}", [Level(5, "rate")]),
    "rates": ("{rate: [5, 10.5]}", [Level(5, "rate"), Level(10.5, "rate")]),
    "bursts": ("{burst: [50, 200]}", [Level(50, "burst"), Level(200, "burst")]),
    "stages": ("{stages: [{rate: 5, for: 30s}]}", [Level(1, "stages")]),
    "replay": ("{replay: {file: trace.jsonl}}", [Level(1, "replay")]),
    "replay at speeds": ("{replay: {file: trace.jsonl, speed: [1, 2.5]}}", [Level(1, "replay"), Level(2.5, "replay")]),
}


@pytest.mark.parametrize(("written", "levels"), LEVELS.values(), ids=LEVELS)
def test_each_shape_has_its_levels_in_the_order_of_the_file(suite, written, levels):
    loaded = suite(written)
    assert list(levels_of(loaded.load)) == levels
    assert loaded.load.shape == levels[0].shape


LENGTHS = {
    "number": ("512", Fixed(512)),
    "uniform": ("{uniform: [100, 500]}", Uniform(100, 500)),
    "normal": ("{normal: {mean: 480, sd: 240}}", Normal(480, 240)),
    "lognormal": ("{lognormal: {median: 480, sigma: 0.8}}", LogNormal(480, 0.8)),
    "empirical": ("{empirical: [128, 512]}", Empirical((128, 512))),
}


@pytest.mark.parametrize(("written", "lengths"), LENGTHS.values(), ids=LENGTHS)
def test_lengths_may_be_distributions(suite, written, lengths):
    sent = workload(suite(f"{{prompt_tokens: {written}, output_tokens: {written}}}"))
    assert (sent.prompt_tokens, sent.output_tokens) == (lengths, lengths)


def test_a_scenario_says_both_lengths(suite):
    sent = workload(suite('{scenario: "D(100, 20)"}'))
    assert (sent.prompt_tokens, sent.output_tokens) == (Fixed(100), Fixed(20))
    assert suite('{scenario: "D(100, 20)"}').load.scenario == "D(100,20)"


ARRIVALS = {
    "left out": ("", Arrivals()),
    "poisson": (", arrivals: poisson", Arrivals(1.0)),
    "constant": (", arrivals: constant", Arrivals(math.inf)),
    "bursty": (", arrivals: {burstiness: 0.5}", Arrivals(0.5)),
}


@pytest.mark.parametrize(("written", "arrivals"), ARRIVALS.values(), ids=ARRIVALS)
def test_a_rate_is_spread_as_asked(suite, written, arrivals):
    loaded = suite(f"{{rate: 5{written}, max_concurrency: 256}}")
    assert workload(loaded).arrivals == arrivals
    assert workload(loaded).max_concurrency == 256
    assert json.dumps(loaded.document(), allow_nan=False)


def test_stages_are_the_whole_batch_and_their_start_may_be_the_warm_up(suite):
    written = "{{stages: [{{rate: 5, for: 30s}}, {{rate: [5, 50], for: 60s}}]{more}}}"
    sent = workload(suite(written.format(more="")))
    assert sent.stages == (Stage(30.0, 5, 5), Stage(60.0, 5, 50))
    assert (sent.stages_of, sent.warmup_s, sent.duration_s) == ("rate", 0.0, 90.0)
    sent = workload(suite(written.format(more=", warmup: 10s")))
    assert (sent.warmup_s, sent.duration_s) == (10.0, 80.0)
    streams = workload(suite("{stages: [{concurrency: [0, 8], for: 2s}]}"))
    assert (streams.stages, streams.stages_of) == ((Stage(2.0, 0, 8),), "concurrency")


def test_a_burst_is_over_with_its_last_answer(suite):
    loaded = suite("{burst: [50, 200], max_requests: 500}")
    sent = workload(loaded, Level(200, "burst"))
    assert (sent.warmup_s, sent.max_requests, sent.duration_s) == (0.0, 200, 30.0)


def trace(directory, times=(0, 1, 2, 3)):
    lines = [{"time_s": time, "prompt_tokens": 10 + number, "output_tokens": 5} for number, time in enumerate(times)]
    (directory / "trace.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_replay_lasts_as_long_as_its_trace_at_its_speed(suite, tmp_path):
    trace(tmp_path)
    loaded = suite("{replay: {file: trace.jsonl, speed: [1, 2], format: jsonl}}")
    assert workload(loaded).duration_s == 4.0, "the last request is followed by a gap like the others"
    sent = workload(loaded, Level(2, "replay"))
    assert (sent.duration_s, sent.warmup_s, sent.times_s) == (2.0, 0.0, (0.0, 1.0, 2.0, 3.0))
    assert [row.prompt_tokens for row in sent.rows] == [10, 11, 12, 13]
    loaded = suite("{replay: {file: trace.jsonl, limit: 2}, duration: 9s, warmup: 1s}")
    sent = workload(loaded)
    assert (sent.duration_s, sent.warmup_s, len(sent.rows)) == (9.0, 1.0, 2)


def test_a_dataset_is_read_from_beside_the_suite(suite, tmp_path):
    (tmp_path / "chats.jsonl").write_text('{"prompt": "One"}\n{"prompt": "Two"}\n{"colour": "Three"}\n')
    with pytest.raises(SuiteError, match=r"chats\.jsonl:3: "):
        workload(suite("{dataset: chats.jsonl}"))
    sent = workload(suite("{dataset: {file: chats.jsonl, format: jsonl, limit: 2, shuffle: true}}"))
    assert [row.text for row in sent.rows] == ["One", "Two"]
    assert sent.shuffle
    (tmp_path / "chats.jsonl").write_text('{"prompt": "One", "colour": "Three"}\n')
    (row,) = workload(suite("{dataset: {file: chats.jsonl, columns: {prompt: colour}}}")).rows
    assert row.text == "Three"


def test_everything_else_of_a_load_reaches_the_workload(suite):
    sent = workload(
        suite(
            "{prefix: {tokens: 256, groups: 4}, conversation: {turns: {uniform: [2, 6]}, think_time: 2s}, "
            "stop: {errors: 100, error_share: 50%, oversaturated: false}, workers: 2, request_timeout: 9s}"
        )
    )
    assert (sent.prefix_tokens, sent.prefix_groups, sent.turns, sent.think_s) == (256, 4, Uniform(2, 6), 2.0)
    assert (sent.max_errors, sent.max_error_share, sent.stop_oversaturated) == (100, 0.5, False)
    assert (sent.workers, sent.request_timeout_s, sent.seed) == (2, 9.0, 7)
    assert workload(suite("{workers: auto}")).workers is None
    assert workload(suite("{api: rerank, documents: 3}")).documents == 3
    assert workload(suite('{api: rerank, scenario: "R(1024,100)"}')).query_tokens.at(0.5) == 100


BY_CLOCK = {
    "concurrency": ("{concurrency: 4}", False),
    "rate": ("{rate: 4}", True),
    "burst": ("{burst: 4}", True),
    "stages by rate": ("{stages: [{rate: 5, for: 1s}]}", True),
    "stages by concurrency": ("{stages: [{concurrency: 5, for: 1s}]}", False),
}


@pytest.mark.parametrize(("written", "limited"), BY_CLOCK.values(), ids=BY_CLOCK)
def test_what_is_sent_by_the_clock_must_arrive_unless_the_suite_says_otherwise(suite, written, limited):
    limits = (Limit("error_rate", 0.01), *((Limit("delivered", 0.98, floor=True),) if limited else ()))
    assert suite(written).slo == limits
    own = suite(written, head=f"{HEAD}slo: {{delivered: 90%}}\n")
    assert own.slo == (Limit("delivered", 0.9, floor=True), Limit("error_rate", 0.01))


def test_what_generates_no_tokens_is_ranked_by_requests(suite):
    assert suite("{api: embeddings}").objective.metric == "request_throughput"
    assert suite("{api: chat}").objective.metric == "output_throughput"
    own = suite("{api: rerank}", head=f"{HEAD}objective: minimize e2e.p99\n")
    assert str(own.objective) == "minimize e2e.p99"


def test_suites_that_say_no_more_than_before_keep_their_measurements(suite):
    """The keys are those that the first version made."""
    assert suite("{}").measurement_key() == "34b727dab6f846a642f5f1fba25761e3702676595d0070775b607416c69322c6"
    llama = "name: chat\nengine: vllm\nmodel: meta-llama/Llama-3.1-8B-Instruct\n"
    same = suite(
        "{prompt_tokens: 512, output_tokens: 128, concurrency: [1, 4, 16, 64], duration: 30s, warmup: 5s}", head=llama
    )
    assert same.measurement_key() == "7789796c0383cdd99d56261c01a24d7e0eb78e4a2c45b77daf4105f3887f14c2"


@pytest.mark.parametrize(
    "changed",
    [
        "{rate: [5, 11]}",
        "{rate: [5, 10], arrivals: constant}",
        "{rate: [5, 10], max_concurrency: 8}",
        "{rate: [5, 10], prompt_tokens: {uniform: [100, 500]}}",
        "{rate: [5, 10], scenario: 'D(512,128)'}",
        "{rate: [5, 10], prefix: {tokens: 8}}",
        "{rate: [5, 10], stop: {errors: 1}}",
        "{rate: [5, 10], generator: genai-bench}",
        "{burst: [5, 10]}",
    ],
)
def test_another_load_is_another_measurement(suite, changed):
    assert suite(changed).measurement_key() != suite("{rate: [5, 10]}").measurement_key()


def test_who_sends_a_load_does_not_change_what_is_measured(suite):
    keys = {
        suite(load).measurement_key() for load in ("{rate: 5}", "{rate: 5, workers: 2}", "{rate: 5, api_key: '${K}'}")
    }
    assert len(keys) == 1


def test_a_file_counts_by_its_content(suite, tmp_path):
    trace(tmp_path)
    loaded = suite("{replay: {file: trace.jsonl}}")
    first = loaded.measurement_key()
    trace(tmp_path, times=(0, 1, 2, 9))
    assert loaded.measurement_key() != first
    trace(tmp_path)
    assert loaded.measurement_key() == first
    loaded = suite("{dataset: many}")
    (tmp_path / "many").mkdir()
    seen = {loaded.measurement_key()}
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "many" / name).write_text('{"prompt": "One"}\n')
        seen.add(loaded.measurement_key())
    assert len(seen) == 3


def test_secrets_of_headers_come_from_the_environment_and_stay_there(suite, monkeypatch):
    loaded = suite("{headers: {X-Team: search, X-Api-Key: 'k-${TEAM_KEY}'}, api_key: '${API_KEY}'}")
    monkeypatch.delenv("API_KEY", raising=False)
    monkeypatch.setenv("TEAM_KEY", "team-secret")
    assert list(lacking(loaded.load, loaded.path.parent)) == ["set API_KEY (load.api_key: ${API_KEY})"]
    with pytest.raises(MissingRequirement, match="set API_KEY"):
        headers_of(loaded.load)
    monkeypatch.setenv("API_KEY", "sesame-open")
    assert list(lacking(loaded.load, loaded.path.parent)) == []
    assert headers_of(loaded.load) == {
        "x-team": "search",
        "x-api-key": "k-team-secret",
        "authorization": "Bearer sesame-open",
    }
    assert set(secrets_of(loaded.load)) == {"k-team-secret", "Bearer sesame-open", "sesame-open"}
    told = json.dumps(loaded.document())
    assert "sesame" not in told
    assert "team-secret" not in told
    assert loaded.document()["load"]["headers"]["x-team"] == "search"


def test_a_file_may_be_named_by_a_variable(suite, tmp_path, monkeypatch):
    trace(tmp_path)
    loaded = suite("{replay: {file: '${TRACES}/trace.jsonl'}}")
    monkeypatch.delenv("TRACES", raising=False)
    assert list(lacking(loaded.load, tmp_path)) == ["set TRACES (load.replay.file: ${TRACES}/trace.jsonl)"]
    unknown = loaded.measurement_key()
    monkeypatch.setenv("TRACES", str(tmp_path))
    assert len(workload(loaded).rows) == 4
    assert loaded.measurement_key() != unknown


def test_no_two_batches_are_sent_the_same_data_but_those_of_equal_trials():
    seeds = [
        batch_seed(seed, level, attempt=attempt, repetition=repetition)
        for seed in (0, 1)
        for level in (Level(10), Level(10, "rate"), Level(10.5, "rate"), Level(11, "rate"))
        for attempt in (1, 2)
        for repetition in ("", "run-1", "run-2")
    ]
    assert len(set(seeds)) == len(seeds)
    assert batch_seed(3, Level(2.5, "rate"), attempt=2) == batch_seed(3, Level(2.5, "rate"), attempt=2)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_blocks_made_in_python_take_numbers_and_distributions_alike():
    assert LoadBlock(prompt_tokens=512) == LoadBlock()
    assert LoadBlock(prompt_tokens=Uniform(1, 9)).lengths == (Uniform(1, 9), Fixed(128))


def test_what_is_written_of_a_load_is_what_it_is(suite):
    written = suite("{rate: [5, 10.5], prompt_tokens: {normal: {mean: 480, sd: 240}}, conversation: {turns: 4}}")
    document = written.document()["load"]
    assert document == {
        "prompt_tokens": {"normal": {"mean": 480.0, "sd": 240.0, "low": 1, "clamped": False}},
        "output_tokens": 128,
        "conversation": {"turns": 4, "think_time_s": 0.0},
        "rate": [5.0, 10.5],
        "duration_s": 30.0,
        "warmup_s": 5.0,
        "max_requests": None,
        "request_timeout_s": 120.0,
        "api": "completions",
        "seed": 0,
    }
