import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import SuiteError
from pytest_autotune.load.generator import Row
from pytest_autotune.load.traces import Trace, read_trace

# The first lines of FAST25-release/traces/synthetic_trace.jsonl of kvcache-ai/Mooncake, with fewer blocks.
MOONCAKE = """\
{"timestamp": 0, "input_length": 1536, "output_length": 6, "hash_ids": [0, 1, 2]}
{"timestamp": 0, "input_length": 1100, "output_length": 4, "hash_ids": [0, 1, 3]}
{"timestamp": 40, "input_length": 28, "output_length": 445, "hash_ids": [298]}
"""
# The first lines of data/AzureLLMInferenceTrace_code.csv of Azure/AzurePublicDataset.
AZURE_2023 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:04.0781490,110,27
"""
AZURE_2024 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 23:59:59.500000+00:00,100,10
2024-05-11 00:00:00.009930+00:00,200,20
"""
OWN = """\
{"time_s": 100.5, "prompt_tokens": 512, "output_tokens": 128, "blocks": [7]}
{"time_s": 100.75, "text": "Why is the sky blue?", "output_tokens": 64}

{"time_s": 101, "turns": ["Hello", "And then?"]}
{"time_s": 103}
"""
FORMATS_HELP = (
    "a trace has JSON lines with timestamp, input_length and output_length (mooncake) or with time_s (jsonl), "
    "or is CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens (azure)"
)


def written(tmp_path, text):
    path = tmp_path / "trace.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        pytest.param(
            MOONCAKE,
            Trace(
                (0.0, 0.0, 0.04),
                (
                    Row(prompt_tokens=1536, output_tokens=6, blocks=(0, 1, 2)),
                    Row(prompt_tokens=1100, output_tokens=4, blocks=(0, 1, 3)),
                    Row(prompt_tokens=28, output_tokens=445, blocks=(298,)),
                ),
                "mooncake",
            ),
            id="mooncake",
        ),
        pytest.param(
            AZURE_2023,
            Trace(
                (0.0, 0.052, 0.098189),
                (
                    Row(prompt_tokens=4808, output_tokens=10),
                    Row(prompt_tokens=3180, output_tokens=8),
                    Row(prompt_tokens=110, output_tokens=27),
                ),
                "azure",
            ),
            id="azure 2023, seven digits",
        ),
        pytest.param(
            AZURE_2024,
            Trace(
                (0.0, 0.50993),
                (Row(prompt_tokens=100, output_tokens=10), Row(prompt_tokens=200, output_tokens=20)),
                "azure",
            ),
            id="azure 2024, with a zone, over midnight",
        ),
        pytest.param(
            OWN,
            Trace(
                (0.0, 0.25, 0.5, 2.5),
                (
                    Row(prompt_tokens=512, output_tokens=128, blocks=(7,)),
                    Row(text="Why is the sky blue?", output_tokens=64),
                    Row(turns=("Hello", "And then?")),
                    Row(),
                ),
                "jsonl",
            ),
            id="our own",
        ),
    ],
)
@pytest.mark.parametrize(
    "as_saved",
    [
        pytest.param(lambda text: text, id="plain"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="windows line ends"),
        pytest.param(lambda text: "\ufeff" + text, id="byte order mark"),
        pytest.param(lambda text: text.rstrip("\n"), id="no last line end"),
    ],
)
def test_trace_is_read_by_its_content(tmp_path, text, trace, as_saved):
    assert read_trace(written(tmp_path, as_saved(text))) == trace
    assert trace.duration_s == trace.times_s[-1]


@pytest.mark.parametrize(
    ("text", "known"), [(MOONCAKE, "mooncake"), (AZURE_2023, "azure"), (OWN, "jsonl")], ids=["mooncake", "azure", "own"]
)
def test_limit_takes_the_first_requests_and_looks_no_further(tmp_path, text, known):
    whole = read_trace(written(tmp_path, text))
    path = written(tmp_path, text + "neither read nor understood\n")
    part = read_trace(path, format=known, limit=2)
    assert (part.times_s, part.rows) == (whole.times_s[:2], whole.rows[:2])
    with pytest.raises(SuiteError, match="neither read nor understood"):
        read_trace(path)


def test_columns_may_stand_in_any_order_and_others_are_ignored(tmp_path):
    text = "GeneratedTokens,Region,TIMESTAMP,ContextTokens\n8,west,2023-11-16 18:17:04,3180\n"
    assert read_trace(written(tmp_path, text)).rows == (Row(prompt_tokens=3180, output_tokens=8),)


def test_keys_that_mooncake_does_not_have_are_ignored_in_its_format(tmp_path):
    text = '{"timestamp": 5, "input_length": 3, "output_length": 2, "chat_id": 9}\n'
    assert read_trace(written(tmp_path, text)).rows == (Row(prompt_tokens=3, output_tokens=2),)


def test_a_length_of_nothing_is_one_token_so_that_its_arrival_is_kept(tmp_path):
    text = '{"timestamp": 5, "input_length": 0, "output_length": 0}\n'
    assert read_trace(written(tmp_path, text)).rows == (Row(prompt_tokens=1, output_tokens=1),)


@settings(deadline=None)  # a file is written and read
@given(times=st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_lines_out_of_order_are_sorted_by_time_and_otherwise_keep_their_order(tmp_path_factory, times):
    lines = [
        json.dumps({"timestamp": time, "input_length": place + 1, "output_length": 1})
        for place, time in enumerate(times)
    ]
    trace = read_trace(written(tmp_path_factory.getbasetemp(), "\n".join(lines)))
    order = sorted(range(len(times)), key=times.__getitem__)
    assert [row.prompt_tokens for row in trace.rows] == [place + 1 for place in order]
    assert trace.times_s == tuple((times[place] - min(times)) / 1000 for place in order)
    assert trace.times_s[0] == 0


AZURE_HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = '{"timestamp": 0, "input_length": 1, "output_length": 1}\n'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param("", None, f"the trace is empty; {FORMATS_HELP}", id="empty"),
        pytest.param("\n \n", None, f"the trace is empty; {FORMATS_HELP}", id="blank"),
        pytest.param("hello\n", 1, f"'hello' is not the first line of a trace; {FORMATS_HELP}", id="prose"),
        pytest.param(
            b"\x1f\x8b\x08\x00\xff\n",
            1,
            r"b'\x1f\x8b\x08\x00\xff\n' is not UTF-8 text; if the trace is compressed, unpack it first",
            id="gzip",
        ),
        pytest.param(
            '[{"timestamp": 0}]',
            1,
            "the trace is one JSON list; write one object per line, without the list around them",
            id="a JSON list",
        ),
        pytest.param(
            '{"times": 3}\n', 1, f"""'{{"times": 3}}' has no time (did you mean 'time_s'?); {FORMATS_HELP}""", id="typo"
        ),
        pytest.param("{}\n", 1, f"'{{}}' has no time; {FORMATS_HELP}", id="an empty object"),
        pytest.param(AZURE_HEAD, 1, "the trace has no requests; it ends after its header", id="header only"),
        pytest.param(
            "TIMESTAMP,ContextToken,GeneratedTokens\n",
            1,
            "the header 'TIMESTAMP,ContextToken,GeneratedTokens' has no column ContextTokens "
            f"(did you mean 'ContextToken'?); {FORMATS_HELP}",
            id="column missing",
        ),
        pytest.param(
            "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n",
            1,
            "column NumImages asks for images, and only text is sent; remove it to replay the text alone",
            id="images",
        ),
        pytest.param(
            AZURE_HEAD + "2023-11-16 18:17:03,1\n",
            2,
            "'2023-11-16 18:17:03,1' has 2 columns where the header has 3",
            id="cell missing",
        ),
        pytest.param(
            AZURE_HEAD + "yesterday,1,1\n",
            2,
            "TIMESTAMP 'yesterday' is not a time; write e.g. 2023-11-16 18:17:03.9799600",
            id="no timestamp",
        ),
        pytest.param(
            AZURE_HEAD + "2023-11-16 18:17:03,many,1\n",
            2,
            "ContextTokens 'many' is not a whole number; write a number of tokens",
            id="no number in a cell",
        ),
        pytest.param(
            AZURE_HEAD + "2023-11-16 18:17:03,1,-1\n",
            2,
            "GeneratedTokens '-1' is not a whole number; write a number of tokens",
            id="negative cell",
        ),
        pytest.param(
            GOOD + "{oops\n",
            2,
            "'{oops' is not JSON: expecting property name enclosed in double quotes at column 2",
            id="JSON",
        ),
        pytest.param(
            GOOD + "\n[1]\n", 3, "'[1]' is not a JSON object; write one per line", id="no object, after a blank line"
        ),
        pytest.param(
            GOOD + '{"timestamp": 0, "input_length": 1}\n',
            2,
            "the line has no output_length; write a number of tokens",
            id="length missing",
        ),
        pytest.param(
            GOOD + '{"timestamps": 0, "input_length": 1, "output_length": 1}\n',
            2,
            "the line has no timestamp (did you mean 'timestamps'?); every request of a trace has its time",
            id="time missing",
        ),
        pytest.param(
            GOOD.replace("0,", '"0",', 1),
            1,
            "timestamp '0' is not a time; write a number, e.g. 1250",
            id="time as text",
        ),
        pytest.param(
            GOOD.replace("0,", "NaN,", 1), 1, "timestamp NaN is not a time; write a number, e.g. 1250", id="no number"
        ),
        pytest.param(
            GOOD.replace('"input_length": 1', '"input_length": 1.5'),
            1,
            "input_length 1.5 is not a whole number; write a number of tokens",
            id="fraction",
        ),
        pytest.param(
            GOOD.replace('"input_length": 1', '"input_length": -1'),
            1,
            "input_length -1 is negative; write 1 to 10000000 tokens",
            id="negative",
        ),
        pytest.param(
            GOOD.replace('"input_length": 1', '"input_length": 10000001'),
            1,
            "input_length 10000001 is more than 10000000; write 1 to 10000000 tokens",
            id="too long",
        ),
        pytest.param(
            '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": ["a"]}\n',
            1,
            'hash_ids ["a"] is not a list of whole numbers',
            id="blocks",
        ),
        pytest.param(
            '{"time_s": 0, "promt_tokens": 1}\n',
            1,
            "unknown key 'promt_tokens' (did you mean 'prompt_tokens'?)",
            id="unknown key",
        ),
        pytest.param(
            '{"time_s": 0, "prompt_tokens": 1, "text": "a"}\n',
            1,
            "both prompt_tokens and text say what is sent; remove one of them",
            id="two prompts",
        ),
        pytest.param(
            '{"time_s": 0, "blocks": [1]}\n',
            1,
            "blocks are parts of a prompt of prompt_tokens tokens; add prompt_tokens or remove blocks",
            id="blocks of nothing",
        ),
        pytest.param(
            '{"time_s": 0, "text": ""}\n', 1, "text '' is not text; write what is sent, in quotes", id="no text"
        ),
        pytest.param(
            '{"time_s": 0, "turns": "Hello"}\n',
            1,
            """turns 'Hello' is not a list of messages; write e.g. ["Hello", "And then?"]""",
            id="no turns",
        ),
    ],
)
def test_what_is_wrong_in_a_trace_is_told_with_file_and_line(tmp_path, text, line, message):
    path = written(tmp_path, text)
    with pytest.raises(SuiteError) as caught:
        read_trace(path)
    assert (caught.value.path, caught.value.line, caught.value.problem) == (path, line, message)


def test_deeply_nested_line_is_refused_like_any_other(tmp_path):
    with pytest.raises(SuiteError, match="is nested too deep or has too long a number"):
        read_trace(written(tmp_path, '{"timestamp": ' + "[" * 200_000))


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SuiteError) as caught:
        read_trace(tmp_path / "no.jsonl")
    assert str(caught.value) == f"{tmp_path / 'no.jsonl'}: the trace cannot be read: No such file or directory"


def test_unknown_format_is_told_with_the_known_ones(tmp_path):
    with pytest.raises(SuiteError, match="'burst' is not a format of traces; write one of mooncake, azure, jsonl"):
        read_trace(written(tmp_path, MOONCAKE), format="burst")


@settings(deadline=None)  # a file is written and read
@given(text=st.text('{}[]",:0123456789e.-timestampinput_length\n', max_size=80))
def test_any_other_text_is_a_suite_error_in_one_line(tmp_path_factory, text):
    path = written(tmp_path_factory.getbasetemp(), GOOD + text)
    try:
        trace = read_trace(path)
    except SuiteError as error:
        assert "\n" not in str(error)  # noqa: PT017 - refused or well-formed, nothing else
        return
    assert len(trace.times_s) == len(trace.rows) >= 1
