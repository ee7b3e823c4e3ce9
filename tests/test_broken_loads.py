"""Every mistake in the `load:` block of a suite gives one line: file, line, key, value, what is allowed, the remedy."""

import pytest

from pytest_autotune.errors import SuiteError
from pytest_autotune.suite_file import load_suite

HEAD = "name: chat\nengine: sim\nmodel: llama\n"

BROKEN = [  # what stands in load: {...}, and what is said about it
    ("concurrency: 4, rate: 5", "rate: a load has one shape, and concurrency: is written too; remove one of the two"),
    ("rate: 5, burst: 3, stages: []", "stages: an empty list says nothing; remove the key"),
    ("rate: 0", "rate: 0 is not a rate; write a number above 0 (requests per second)"),
    ("rate: [5, 5]", "rate[1]: rate 5 is listed twice"),
    ("rate: '5'", "rate: '5' is not a number; a rate is requests per second without a unit, e.g. 10.5"),
    ("rate: []", "rate: an empty list is no load; list at least one rate, e.g. [5, 10.5]"),
    ("rate: 10/s", "rate: '10/s' is not a number; a rate is requests per second without a unit, e.g. 10.5"),
    ("concurrency: {search: 5}", "concurrency.search: 5 is not a range; write e.g. search: [1, 512]"),
    ("concurrency: {}", "concurrency.search: null is not a range; write e.g. search: [1, 512]"),
    (
        "concurrency: {search: [0, 5]}",
        "concurrency.search[0]: 0 is too small; write a whole number of at least 1",
    ),
    ("concurrency: {search: [9, 5]}", "concurrency.search: [9, 5] ends below its start; write [5, 9]"),
    ("concurrency: {search: [1, 5], tolerence: 5%}", "concurrency.tolerence: unknown key (did you mean 'tolerance'?)"),
    (
        "concurrency: {search: [1, 5], tolerance: 0.01%}",
        "concurrency.tolerance: '0.01%' is no tolerance between 0.1% and 100%; write e.g. 5%",
    ),
    ("rate: {search: [0, 5]}", "rate.search[0]: 0 is not a rate; write a number above 0 (requests per second)"),
    ("rate: {search: [1, 5]}, skip: dominated", "skip: a search has no levels to skip; remove it"),
    ("burst: 5, skip: dominated", "skip: burst has no levels to skip; remove it"),
    ("skip: all", "skip: 'all' is not one of dominated"),
    (
        "max_duration: 90s",
        "max_duration: only slo: confidence makes a batch longer than its duration; remove it or write e.g. confidence: 95%",
    ),
    ("max_duration: 2s, duration: 3s", "max_duration: 2s is less than the duration, 3s"),
    ("burst: 2.5", "burst: 2.5 is not a whole number; write a whole number of at least 1"),
    ("burst: [2, 2]", "burst[1]: burst 2 is listed twice"),
    (
        "arrivals: poison, rate: 5",
        "arrivals: 'poison' is not a kind of arrivals (did you mean 'poisson'?); write poisson, constant or {burstiness: 0.5}",
    ),
    (
        "arrivals: {burstiness: 0}, rate: 5",
        "arrivals.burstiness: 0 is not a burstiness; write a number above 0 (1 is poisson, less is burstier)",
    ),
    ("arrivals: {}, rate: 5", "arrivals: an empty mapping says nothing; write poisson, constant or {burstiness: 0.5}"),
    ("arrivals: {burst: 1}, rate: 5", "arrivals.burst: unknown key (did you mean 'burstiness'?)"),
    ("arrivals: poisson", "arrivals: only a rate is spread in time, concurrency is not; remove it"),
    ("arrivals: 3, rate: 5", "arrivals: 3 is not a kind of arrivals; write poisson, constant or {burstiness: 0.5}"),
    ("max_concurrency: 8", "max_concurrency: concurrency says itself what is in flight; remove it"),
    ("stages: {rate: 5}", 'stages: {"rate": 5} is not a list'),
    ("stages: [5]", "stages[0]: 5 is not a mapping of keys to values"),
    ("stages: [{rate: 5}]", "stages[0]: missing key 'for'"),
    ("stages: [{for: 30s}]", "stages[0]: a stage has either rate or concurrency; write e.g. {rate: 5, for: 30s}"),
    (
        "stages: [{rate: 5, concurrency: 4, for: 30s}]",
        "stages[0]: a stage has either rate or concurrency; write e.g. {rate: 5, for: 30s}",
    ),
    (
        "stages: [{rate: 5, for: 1s}, {concurrency: 4, for: 1s}]",
        "stages: all stages have a rate, or all have a concurrency; use one of the two",
    ),
    (
        "stages: [{rate: [1, 2, 3], for: 1s}]",
        "stages[0].rate: [1, 2, 3] is not a ramp; write one value, or two: [from, to]",
    ),
    ("stages: [{rate: [0, 0], for: 1s}]", "stages[0].rate: [0, 0] is no load; one end must be above 0"),
    (
        "stages: [{rate: [5, x], for: 1s}]",
        "stages[0].rate[1]: 'x' is not a number; a rate is requests per second without a unit, e.g. 10.5",
    ),
    ("stages: [{rat: 5, for: 1s}]", "stages[0].rat: unknown key (did you mean 'rate'?)"),
    ("stages: [{rate: 5, for: 1s}], duration: 3s", "duration: the stages say how long the batch is; remove it"),
    (
        "stages: [{rate: 5, for: 1s}], warmup: 1s",
        "warmup: the warm-up is a part of the stages, and takes all of their time; shorten it",
    ),
    ("rate: 5, settle: 60s", "settle: a server settles under a concurrency, and the load is rate; remove it"),
    (
        "concurrency: 5, settle: 60s, generator: guidellm",
        "settle: guidellm cannot tell when a server has settled; remove it",
    ),
    ("burst: 5, warmup: 1s", "warmup: a burst meets a server at rest; remove it"),
    ("replay: 5", "replay: 5 is not a mapping of keys to values"),
    ("replay: {}", "replay: missing key 'file'"),
    (
        "replay: {file: x, format: mooncak}",
        "replay.format: 'mooncak' is not one of mooncake, azure, jsonl (did you mean 'mooncake'?)",
    ),
    (
        "replay: {file: x, speed: 0}",
        "replay.speed: 0 is not a speed; write a number above 0 (times as fast as recorded)",
    ),
    ("replay: {file: x, speed: 2x}", "replay.speed: '2x' is not a number; write e.g. 2 for twice as fast as recorded"),
    ("replay: {file: x}, prompt_tokens: 5", "prompt_tokens: the trace has the prompts; remove one of the two"),
    ("replay: {file: x}, dataset: y", "dataset: the trace has the requests; remove one of the two"),
    ("dataset: 5", "dataset: 5 is not a mapping of keys to values"),
    ("dataset: {fil: x}", "dataset: missing key 'file' (and 1 more problem)"),
    ("dataset: {file: x, format: xml}", "dataset.format: 'xml' is not one of json, jsonl, csv, parquet, arrow"),
    ("dataset: {file: x, columns: {promt: y}}", "dataset.columns.promt: unknown key (did you mean 'prompt'?)"),
    ("dataset: x, prompt_tokens: 100", "prompt_tokens: the dataset has the prompts; remove one of the two"),
    ("dataset: x, prefix: {tokens: 5}", "prefix: the dataset has the prompts; remove one of the two"),
    ('dataset: x, scenario: "D(1,2)"', "scenario: the dataset has the prompts; remove one of the two"),
    (
        'scenario: "Q(1)"',
        "scenario: 'Q(1)' is not a traffic scenario; write D(100,100), N(480,240)/(300,150), U(50,100)/(200,250), E(1024), R(1024,100) or dataset",
    ),
    ("scenario: 5", 'scenario: 5 is not a traffic scenario; write e.g. "N(480,240)/(300,150)"'),
    (
        'scenario: "D(100,100)", output_tokens: 5',
        "output_tokens: the scenario D(100,100) says it already; remove one of the two",
    ),
    ("scenario: dataset", "scenario: 'dataset' needs dataset: the file that has the prompts"),
    ('scenario: "E(100)"', "scenario: E(100) is of api: embeddings, not completions; change one"),
    (
        'scenario: "D(100,100)", api: rerank',
        "scenario: D(100,100) is of api: completions or chat, not rerank; change one",
    ),
    (
        "prefix: {tokens: 512}",
        "prefix.tokens: 512 leaves nothing of prompts of 512 tokens that is their own; use fewer",
    ),
    ("prefix: {tokens: 0}", "prefix.tokens: 0 is too small; write a whole number of at least 1"),
    ("prefix: {groups: 4}", "prefix: missing key 'tokens'"),
    ("conversation: {turns: 0}", "conversation.turns: 0 is too small; write a whole number of at least 1"),
    ("conversation: {turns: 4, think_time: 2}", "conversation.think_time: 2 has no unit; write '2s' or '2ms'"),
    (
        "conversation: {turns: 4}, burst: 4",
        "conversation: burst says itself when each request is sent; remove one of the two",
    ),
    ("conversation: {turns: 4}, api: rerank", "conversation: api: rerank has no answers to go on from; remove it"),
    ("documents: 4", "documents: only api: rerank has documents; remove it"),
    ("output_tokens: 4, api: embeddings", "output_tokens: api: embeddings generates no tokens; remove it"),
    ("workers: 0", "workers: 0 is too small; write a whole number of at least 1"),
    ("workers: aut", "workers: 'aut' is neither a number of processes nor auto (did you mean 'auto'?); write one"),
    ("workers: many", "workers: 'many' is neither a number of processes nor auto; write one"),
    ("generator: vllm", "generator: 'vllm' is not one of builtin, genai-bench, vllm-bench, guidellm"),
    ("generator_python: /x/python", "generator_python: the builtin generator runs in this Python; remove it"),
    ("generator: vllm-bench, workers: 2", "workers: vllm-bench has workers of its own; remove it"),
    ('headers: {"a b": x}', "headers.a b: 'a b' is not the name of a header field; use letters, digits and '-'"),
    (
        'headers: {authorization: "Bearer sk-0123456789abcdef"}',
        "headers.authorization: a secret that stands in a file is none any more; write the variable that holds it, e.g. Bearer ${API_KEY}",
    ),
    (
        "headers: {x-api-key: hunter2}",
        "headers.x-api-key: a secret that stands in a file is none any more; write the variable that holds it, e.g. Bearer ${API_KEY}",
    ),
    (
        'headers: {x-note: "\\n"}',
        "headers.x-note: '\\n' holds a character that HTTP does not allow in a header; remove it",
    ),
    ("headers: {x-flag: true}", "headers.x-flag: true is not text; put it in quotes"),
    ("headers: [a]", 'headers: ["a"] is not a mapping of keys to values'),
    (
        "api_key: hunter2",
        "api_key: a key that stands in a file is no secret any more; write the variable that holds it: ${API_KEY}",
    ),
    (
        "api_key: 5",
        "api_key: a key that stands in a file is no secret any more; write the variable that holds it: ${API_KEY}",
    ),
    (
        'api_key: "${K}", headers: {Authorization: "${K}"}',
        "api_key: headers: has an authorization too; remove one of the two",
    ),
    ("stop: {errors: 0}", "stop.errors: 0 is too small; write a whole number of at least 1"),
    (
        "stop: {error_share: 50}",
        "stop.error_share: 50 is not a share below 1 (did you mean '50%'?); write a percentage, e.g. 1%, or a share of one, e.g. 0.01",
    ),
    ("stop: {oversaturated: maybe}", "stop.oversaturated: 'maybe' is not true or false"),
    ("stop: {error: 3}", "stop.error: unknown key (did you mean 'errors'?)"),
    ("stop: 100", "stop: 100 is not a mapping of keys to values"),
    ("prompt_tokens: {uniform: [500, 100]}", "prompt_tokens.uniform: low 500 is above high 100; write [100, 500]"),
    (
        "prompt_tokens: {unifrm: [1, 2]}",
        "prompt_tokens: {\"unifrm\": [1, 2]} is not a length (did you mean 'uniform'?); write a number of tokens, {uniform: [100, 500]}, {normal: {mean: 480, sd: 240}}, {lognormal: {median: 480, sigma: 0.8}}, {empirical: [128, 512]}, N(480,240) or U(100,500)",
    ),
    (
        "api: embedding",
        "api: 'embedding' is not one of completions, chat, embeddings, rerank (did you mean 'embeddings'?)",
    ),
]


@pytest.mark.parametrize(("written", "message"), BROKEN, ids=[written for written, _ in BROKEN])
def test_broken_load_is_refused_with_one_line(tmp_path, written, message):
    file = tmp_path / "chat.yaml"
    file.write_text(f"{HEAD}load: {{{written}}}\n")
    with pytest.raises(SuiteError) as caught:
        load_suite(file)
    assert str(caught.value) == f"{file}:4: load.{message}"


def test_a_secret_that_is_refused_is_not_repeated(tmp_path):
    file = tmp_path / "chat.yaml"
    for written in (
        "api_key: sesame-open",
        "headers: {x-api-key: sesame-open}",
        "headers: {cookie: 'token=sesame-open'}",
    ):
        file.write_text(f"{HEAD}load: {{{written}}}\n")
        with pytest.raises(SuiteError) as caught:
            load_suite(file)
        assert "sesame" not in str(caught.value)


TOKENS = "api: embeddings generates no tokens; use e2e, request_throughput or input_throughput"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("slo: {ttft.p90: 1s}", f"slo.ttft.p90: {TOKENS}"),
        ("slo: {output_throughput_per_gpu: 10}", f"slo.output_throughput_per_gpu: {TOKENS}"),
        ("objective: maximize output_throughput", f"objective: {TOKENS}"),
    ],
)
def test_what_generates_no_tokens_has_no_limit_on_them(tmp_path, written, message):
    file = tmp_path / "chat.yaml"
    file.write_text(f"{HEAD}load: {{api: embeddings}}\n{written}\n")
    with pytest.raises(SuiteError) as caught:
        load_suite(file)
    assert str(caught.value) == f"{file}:5: {message}"
