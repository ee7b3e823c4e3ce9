"""Datasets as rows: every format, real files of Arrow and Parquet, and errors that name the place."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, ipc, parquet

from pytest_autotune.errors import SuiteError
from pytest_autotune.load import dataset_files
from pytest_autotune.load.dataset_rows import Columns
from pytest_autotune.load.datasets import read_dataset
from pytest_autotune.load.generator import Row

SHAREGPT = [
    {"id": "a", "conversations": [{"from": "human", "value": "Hi, \n“you”"}, {"from": "gpt", "value": "Ho"}]},
    {"id": "b", "conversations": [{"from": "gpt", "value": "Only me"}]},
    {
        "id": "c",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "One?"},
            {"from": "gpt", "value": "1"},
            {"from": "human", "value": "Two?"},
        ],
    },
]
SHAREGPT_ROWS = (Row(text="Hi, \n“you”"), Row(turns=("Be brief.\n\nOne?", "Two?")))


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def problem(path, **options):
    with pytest.raises(SuiteError) as caught:
        read_dataset(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path)).removeprefix("/").removeprefix(":").lstrip()


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_sharegpt_is_read_in_chunks_of_any_size(write, monkeypatch, chunk, indent):
    monkeypatch.setattr(dataset_files, "_CHUNK", chunk)
    path = write("sharegpt.json", json.dumps(SHAREGPT, indent=indent, ensure_ascii=False))
    assert read_dataset(path) == SHAREGPT_ROWS


def test_turns_of_conversations_can_be_limited(write):
    path = write("sharegpt.json", json.dumps(SHAREGPT))
    assert read_dataset(path, columns=Columns(turns=1)) == (SHAREGPT_ROWS[0], Row(text="Be brief.\n\nOne?"))


JSONL = {
    "prompt": ({"prompt": "p"}, Row(text="p")),
    "text": ({"text": "t", "id": 3}, Row(text="t")),
    "lengths": (
        {"prompt": "p", "prompt_tokens": 5, "output_tokens": 7},
        Row(text="p", prompt_tokens=5, output_tokens=7),
    ),
    "max tokens": ({"prompt": "p", "max_tokens": 7.0}, Row(text="p", output_tokens=7)),
    "no prompt": ({"prompt_tokens": 5, "max_tokens": 7}, Row(prompt_tokens=5, output_tokens=7)),
    "messages": ({"messages": [{"role": "user", "content": "m"}]}, Row(text="m")),
    "parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}]}]},
        Row(text="a\nb"),
    ),
    "prompt of messages": ({"prompt": [{"role": "User", "content": "m"}]}, Row(text="m")),
    "no content": (
        {"messages": [{"role": "assistant", "content": None}, {"role": "user", "content": "m"}]},
        Row(text="m"),
    ),
    "bare turns": ({"turns": ["a", "b"]}, Row(turns=("a", "b"))),
    "sequence": ({"conversations": {"from": ["human", "gpt"], "value": ["hi", "ho"]}}, Row(text="hi")),
    "first that is there": ({"messages": None, "prompt": "p"}, Row(text="p")),
    "surrogate": ({"prompt": "\ud83d"}, Row(text="\ud83d")),
}


@pytest.mark.parametrize(("record", "row"), JSONL.values(), ids=JSONL)
def test_records_of_every_form_become_rows(write, record, row):
    assert read_dataset(write("d.jsonl", lines(record))) == (row,)


def test_a_json_file_may_have_one_object_per_line_after_all(write):
    assert read_dataset(write("d.json", "\ufeff" + lines({"text": "a"}, {"text": "b"}))) == (
        Row(text="a"),
        Row(text="b"),
    )


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["text", "other"]), st.text())
        | st.fixed_dictionaries({"text": st.text(min_size=1)})
    )
)
@settings(deadline=None, max_examples=50)
def test_lists_and_lines_of_any_texts_are_read_alike(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("d")
    records = [{"text": "first"}, *({"text": "", **record} for record in records)]
    (folder / "d.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8", newline="")
    (folder / "d.jsonl").write_text(lines(*records), encoding="utf-8")
    expected = tuple(Row(text=record["text"]) for record in records if record["text"].strip())
    assert read_dataset(folder / "d.json") == read_dataset(folder / "d.jsonl") == expected


def test_tables_have_a_header_and_cells_of_any_length(write, tmp_path):
    path = tmp_path / "d.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "prompt", "max_tokens"], [1, 'a, "b"\nc', "7"], [2, "ä" * 200_000, ""]])
    before = csv.field_size_limit()
    assert read_dataset(path) == (Row(text='a, "b"\nc', output_tokens=7), Row(text="ä" * 200_000))
    assert csv.field_size_limit() == before
    assert read_dataset(write("d.tsv", "text\tid\na,b\t1\n")) == (Row(text="a,b"),)


def table(rows):
    return pa.Table.from_pylist(rows)


def save_arrow(path, rows, batch=2):
    """Write rows as ``datasets.Dataset.save_to_disk`` does: a stream of record batches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = table(rows)
    with pa.OSFile(str(path), "wb") as file, ipc.new_stream(file, made.schema) as writer:
        writer.write_table(made, max_chunksize=batch)


def save_to_disk(folder, *shards):
    """Write a folder as datasets 5.2 does."""
    names = [f"data-{number:05}-of-{len(shards):05}.arrow" for number in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        save_arrow(folder / name, rows)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": {}}))


TABLE = [
    {"id": number, "prompt": f"p{number} ä", "prompt_tokens": number + 1, "unused": [1.5] * number}
    for number in range(3000)
]
TABLE_ROWS = tuple(Row(text=f"p{number} ä", prompt_tokens=number + 1) for number in range(3000))


def test_parquet_is_read_row_group_by_row_group(tmp_path):
    parquet.write_table(table(TABLE), tmp_path / "d.parquet", row_group_size=1300)
    assert read_dataset(tmp_path / "d.parquet") == TABLE_ROWS


def test_arrow_is_read_as_stream_and_as_file(tmp_path):
    save_arrow(tmp_path / "d.arrow", TABLE, batch=2500)
    feather.write_feather(table(TABLE), str(tmp_path / "d.feather"))
    assert read_dataset(tmp_path / "d.arrow") == read_dataset(tmp_path / "d.feather") == TABLE_ROWS


def test_conversations_of_tables_are_read(tmp_path):
    parquet.write_table(table(SHAREGPT), tmp_path / "d.parquet")
    assert read_dataset(tmp_path / "d.parquet") == SHAREGPT_ROWS


def test_a_dataset_saved_to_disk_is_read_shard_by_shard(tmp_path):
    save_to_disk(tmp_path, TABLE[:5], TABLE[5:12])
    assert read_dataset(tmp_path) == TABLE_ROWS[:12]
    assert read_dataset(tmp_path, limit=7) == TABLE_ROWS[:7]


def test_of_a_dataset_with_splits_the_one_asked_for_is_read(tmp_path):
    save_to_disk(tmp_path / "train", TABLE[:5])
    save_to_disk(tmp_path / "test", TABLE[5:7])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    assert read_dataset(tmp_path) == TABLE_ROWS[:5]
    assert read_dataset(tmp_path, split="test") == TABLE_ROWS[5:7]
    assert problem(tmp_path, split="dev") == "no split 'dev'; name one of test, train"


def test_a_cloned_repository_is_read_by_its_splits(tmp_path, write):
    (tmp_path / "data").mkdir()
    for number, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]):
        parquet.write_table(table(TABLE[number : number + 1]), tmp_path / "data" / f"{name}.parquet")
    write(".git/train.jsonl", "no data")
    write("dataset_infos.json", "{}")
    write("train.jsonl", lines({"text": "lines"}))
    assert read_dataset(tmp_path) == TABLE_ROWS[:2]
    assert read_dataset(tmp_path, split="test") == TABLE_ROWS[2:3]
    assert read_dataset(tmp_path, format="jsonl") == (Row(text="lines"),)
    assert problem(tmp_path, split="dev") == (
        "no files of split 'dev'; there are data/test-00000-of-00001.parquet, data/train-00000-of-00002.parquet, "
        "data/train-00001-of-00002.parquet"
    )
    assert problem(tmp_path, format="csv").startswith("no csv files; there must be some ending in .parquet, ")


def test_reading_stops_at_the_limit(write):
    path = write("d.jsonl", lines({"text": "a"}, {"text": "b"}) + "no JSON")
    assert read_dataset(path, limit=2) == (Row(text="a"), Row(text="b"))


def test_empty_records_are_skipped_and_counted(write, caplog):
    path = write("d.jsonl", lines({"text": "a"}, {"text": " \n"}, {"text": None}, {"text": "b"}))
    with caplog.at_level(logging.WARNING):
        assert read_dataset(path) == (Row(text="a"), Row(text="b"))
    assert caplog.messages == [f"skipped 2 empty records of {path}, the first is d.jsonl:2"]


def test_columns_can_be_named(write):
    path = write("d.jsonl", lines({"prompt": "x", "ask": "a", "n": "3", "out": 4}))
    columns = Columns(prompt="ask", prompt_tokens="n", output_tokens="out")
    assert read_dataset(path, columns=columns) == (Row(text="a", prompt_tokens=3, output_tokens=4),)


BROKEN = {
    "suffix": ("d.txt", "a", "the suffix '.txt' tells no format; name one of arrow, csv, json, jsonl, parquet"),
    "empty": ("d.jsonl", "", "holds no prompts; name another dataset"),
    "empty list": ("d.json", "[]", "holds no prompts; name another dataset"),
    "only empty rows": ("d.jsonl", lines({"text": ""}), "holds no prompts; name another dataset"),
    "no list": ("d.json", "\n3", "2: expected a list of objects, or one object per line"),
    "list of numbers": ("d.json", '[{"text": "a"},\n3]', "2: found '3', expected an object; correct the JSON"),
    "no comma": ("d.json", '[{"text": "a"}\n{}]', "2: found '{', expected ',' or ']'; correct the JSON"),
    "no bracket": ("d.json", '[{"text": "a"},\n', "2: found 'the end', expected an object; correct the JSON"),
    "cut object": (
        "d.json",
        '[{"text": "a"},\n\n{"text":\n "b',
        "4: no JSON: Unterminated string starting at (column 2)",
    ),
    "bad object": (
        "d.json",
        '[\n{"text": "x"},{\n"text" 2}' + " " * 50,
        "3: no JSON: Expecting ':' delimiter (column 8)",
    ),
    "bad line": ("d.jsonl", '{"text": "a"}\n\n{"text"\n', "3: no JSON: Expecting ':' delimiter (column 8)"),
    "list per line": ("d.jsonl", "[1]\n", "1: found '[1]', expected an object; correct the JSON"),
    "latin-1 lines": ("d.jsonl", b'{"text": "a"}\n{"text": "\xe4"}', "2: no UTF-8: invalid continuation byte at 0xe4"),
    "latin-1 list": ("d.json", b'[{"text": "\xe4"}]', "1: no UTF-8: invalid continuation byte at 0xe4"),
    "digits": ("d.jsonl", '{"text": ' + "1" * 5000 + "}", "1: JSON that cannot be read: Exceeds the limit"),
    "depth": ("d.jsonl", '{"text": ' + "[" * 100_000, "1: JSON that cannot be read: maximum recursion depth"),
    "no column": (
        "d.jsonl",
        lines({"a": 1, "b": 2}),
        "1: no prompt: none of conversations, conversation, messages, turns, prompt, text, question, instruction or prompt_tokens among its columns a, b; name the column",
    ),
    "number as prompt": (
        "d.jsonl",
        lines({"text": "a"}, {"text": 3}),
        "2: text is 3, expected a text or a list of messages",
    ),
    "message": (
        "d.jsonl",
        lines({"messages": [{"role": "user"}, {"a": 1}]}),
        "1: messages holds {'a': 1}, expected a message with from and value, or role and content",
    ),
    "tokens": (
        "d.jsonl",
        lines({"text": "a", "max_tokens": 0}),
        "1: max_tokens is 0, expected a whole number of tokens, at least 1",
    ),
    "boolean": ("d.jsonl", lines({"text": "a", "max_tokens": True}), "1: max_tokens is True, expected a whole number"),
    "fraction": (
        "d.jsonl",
        lines({"text": "a", "prompt_tokens": 1.5}),
        "1: prompt_tokens is 1.5, expected a whole number",
    ),
    "word": ("d.csv", 'text,max_tokens\n"a\nb",3\nc,many\n', "4: max_tokens is 'many', expected a whole number"),
    "infinity": ("d.jsonl", '{"text": "a", "max_tokens": Infinity}', "1: max_tokens is inf, expected a whole number"),
    "cells": ("d.csv", "text\na, b\n", "2: more cells than the header has; quote those with commas"),
    "quotes": ("d.csv", 'text\n"a', "2: no CSV in UTF-8: unexpected end of data"),
    "latin-1 table": ("d.csv", b"text\na\n\xe4\n", "1: no CSV in UTF-8: 'utf-8' codec"),
    "no parquet": ("d.parquet", "PAR", "no Parquet file: "),
    "no arrow": ("d.arrow", "ARR", "no Arrow file: "),
    "no data files": ("state.json", "{}", "lists no data_files, as save_to_disk writes them; save the dataset again"),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_errors_name_place_value_and_remedy(write, name, content, message):
    path = write(name, content)
    if name == "state.json":
        assert problem(path.parent).startswith(f"state.json: {message}")
    else:
        assert problem(path).startswith(message)


def test_a_column_that_is_not_there_is_named_with_those_that_are(write, tmp_path):
    message = "no column 'ask'; there are id, prompt, prompt_tokens, unused"
    parquet.write_table(table(TABLE[:2]), tmp_path / "d.parquet")
    assert problem(tmp_path / "d.parquet", columns=Columns(prompt="ask")) == f"row 1: {message}"
    assert problem(write("d.jsonl", lines(TABLE[0])), columns=Columns(prompt="ask")) == f"1: {message}"


def test_a_table_without_any_known_column_names_those_it_has(tmp_path):
    parquet.write_table(table([{"a": 1, "b": 2}]), tmp_path / "d.parquet")
    assert "among its columns a, b; name the column" in problem(tmp_path / "d.parquet")


def test_a_path_that_is_not_there_is_told(tmp_path):
    assert problem(tmp_path / "no.jsonl").startswith("there is no such file or directory")
    assert problem(tmp_path).startswith("no dataset files; there must be some ending in .parquet, ")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    parquet.write_table(table(TABLE[:2]), tmp_path / "d.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'pytest-autotune[datasets]'" in problem(tmp_path / "d.parquet")


def test_pyarrow_is_loaded_for_its_own_files_only(write):
    path = write("d.jsonl", lines({"text": "a"}))
    script = f"import sys; from pytest_autotune.load.datasets import read_dataset; read_dataset({str(path)!r}); print('pyarrow' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]
