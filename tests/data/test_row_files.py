"""Files of the field: each gives the rows that were written, bounded, or says what is wrong."""

from __future__ import annotations

import bz2
import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import load_rows, row_ids
from influcoder_lightning.data import json_rows, row_files
from influcoder_lightning.data.row_files import is_hub_name, raw_rows
from influcoder_lightning.data.rows import RowSource, as_written
from influcoder_lightning.errors import DataError

ROWS = [{"prompt": f"p {i}", "response": f'r\n{i}, "x"'} for i in range(5)]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def packed(name, data):
    if name.endswith(".zst"):
        return pa.compress(data, codec="zstd", asbytes=True)
    return {".gz": gzip.compress, ".bz2": bz2.compress}[name[name.rindex(".") :]](data)


def write(folder, name, rows=ROWS):
    path = folder / name
    kind = name.split(".")[1]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, ["prompt", "response"], delimiter="," if kind == "csv" else "\t"
            )
            writer.writeheader()
            writer.writerows(rows)
        return path
    data = json.dumps(rows, indent=2).encode() if kind == "json" else jsonl(rows)
    path.write_bytes(packed(name, data) if name.count(".") > 1 else data)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "rows.jsonl",
        "rows.jsonl.gz",
        "rows.jsonl.bz2",
        "rows.jsonl.zst",
        "rows.json",
        "rows.json.zst",
        "rows.csv",
        "rows.tsv",
        "rows.parquet",
    ],
)
def test_every_kind_gives_the_rows_that_were_written(tmp_path, name):
    path = write(tmp_path, name)
    assert load_rows(path) == ROWS
    assert as_written(RowSource(path), [3, 0]) == [ROWS[3], ROWS[0]]


def test_several_files_and_patterns_are_one_source(tmp_path):
    write(tmp_path, "a.jsonl", ROWS[:2])
    write(tmp_path, "b.csv", ROWS[2:4])
    write(tmp_path, "c.parquet", ROWS[4:])
    assert load_rows([tmp_path / "a.jsonl", tmp_path / "b.csv", tmp_path / "c.parquet"]) == ROWS
    assert load_rows(tmp_path) == ROWS  # a folder of data files
    assert load_rows(str(tmp_path / "*.c*")) == ROWS[2:4]


def test_a_split_of_a_folder_of_data_files(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "train-00000-of-00002.jsonl", ROWS[:2])
    write(tmp_path / "data", "train-00001-of-00002.jsonl", ROWS[2:3])
    write(tmp_path / "data", "test-00000-of-00001.jsonl", ROWS[3:])
    assert RowSource(tmp_path, split="train").load()[0] == ROWS[:3]
    assert RowSource(tmp_path, split="test").load()[0] == ROWS[3:]
    with pytest.raises(DataError, match="without data files of the split 'dev'"):
        RowSource(tmp_path, split="dev").load()
    with pytest.raises(DataError, match="a file has no splits"):
        RowSource(write(tmp_path, "one.jsonl"), split="train").load()


def test_a_data_set_of_the_hub_is_loaded_by_datasets(tmp_path, monkeypatch):
    """Where a hub is not reachable: the same call on a folder."""
    import datasets

    from influcoder_lightning.data import hub_rows

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set", "train.jsonl")
    real = datasets.load_dataset

    def local(name, **options):
        assert name == "owner/name"
        return real(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.setattr(datasets, "load_dataset", local)
    found = [raw.read() for raw in hub_rows.rows("owner/name", "train[:3]", None)]
    assert found == ROWS[:3]
    assert [raw.read() for raw in hub_rows.rows("owner/name", None, None)] == ROWS
    with pytest.raises(DataError, match="cannot be loaded from the Hugging Face hub"):
        next(hub_rows.rows("owner/name", "dev", None))


def test_a_name_is_of_the_hub_only_where_no_path_can_be_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("openai/gsm8k")
    assert not is_hub_name("data/pool.jsonl")
    assert not is_hub_name("pool")
    assert not is_hub_name("a/b/c")
    (tmp_path / "data").mkdir()
    assert not is_hub_name("data/pool")


@given(
    rows=st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=6), chunk=st.integers(1, 9)
)
def test_an_array_is_read_in_any_pieces(tmp_path_factory, rows, chunk):
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=chunk % 3 or None), "utf-8")
    before, json_rows._CHUNK = json_rows._CHUNK, chunk
    try:
        with path.open("rb") as file:
            assert [raw.read() for raw in json_rows.array(path, file)] == rows
    finally:
        json_rows._CHUNK = before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": 2', r"row 1: no valid JSON"),
        ('[{"a": 1} {"a": 2}]', r"'\{' at character 10, where '\]' is needed"),
        ('[{"a": 1}, 3]', r"row 1: a row must be an object"),
        ('[{"a": 1}] more', r"more text behind the array"),
        ('[{"a": 1},', r"row 1: a row must be an object"),
        ('[{"a": 1, "a": 2}]', r"row 0.*'a' occurs twice"),
        ('[{"a": NaN}]', r"row 0.*NaN is not JSON"),
        ('[{"a": "\\ud800"}]', r"row 0.*lone surrogate"),
    ],
)
def test_a_broken_array_names_the_row(tmp_path, text, message):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        [raw.read() for raw in raw_rows(path)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,prompt\na,b\n", "each once"),
        ("prompt,\na,b\n", "each once"),
        ("prompt,response\na\n", r":2: 1 cells for the 2 columns"),
        ('prompt,response\n"a,b\n', "no valid CSV|1 cells"),
    ],
)
def test_a_broken_table_names_the_line(tmp_path, text, message):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_rows(path)


def test_a_name_that_does_not_say_what_a_file_is(tmp_path):
    for name in ("rows.parquet", "rows.jsonl.gz", "rows.jsonl.zst"):
        path = write(tmp_path, name).rename(tmp_path / "renamed.jsonl")
        with pytest.raises(DataError, match=r"renamed\.jsonl: this is .*Rename it"):
            load_rows(path)


def test_what_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "most_unpacked", lambda path, times: 10_000)
    for name in ("rows.jsonl.gz", "rows.jsonl.bz2", "rows.jsonl.zst"):
        path = write(tmp_path, name, [{"prompt": "p" * 9000, "response": "r"}] * 9)
        with pytest.raises(DataError, match="unpacks to more than 10,000 bytes"):
            load_rows(path)


def test_a_parquet_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "rows.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), ["x" * 2**20])
    pq.write_table(pa.table({"prompt": text, "response": text}), path, compression="zstd")
    with pytest.raises(DataError, match="cannot be read as Parquet: it tells of"):
        load_rows(path)


def test_an_empty_id_of_a_csv_is_none_and_an_empty_line_is_no_row(tmp_path):
    (tmp_path / "r.csv").write_text("id,prompt,response\n,a,b\n,c,d\n\n")
    rows = load_rows(tmp_path / "r.csv")
    assert [row["prompt"] for row in rows] == ["a", "c"]
    assert row_ids(rows) == [0, 1]


def test_files_of_a_folder_that_hold_no_rows_are_passed_over(tmp_path):
    for name in ("dataset_infos.json", "._train.jsonl", ".cache/x.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    assert len(load_rows(tmp_path)) == 1


def test_a_table_has_no_fields_that_the_row_did_not_have(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def row(name):
        call = {"type": "function", "function": {"name": "f", "arguments": {name: 1}}}
        said = {"role": "assistant", "content": "", "tool_calls": [call]}
        return {"messages": [{"role": "user", "content": "q"}, said]}

    rows = [row("a"), row("b")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    found = [row["messages"][1]["tool_calls"] for row in load_rows(tmp_path / "r.parquet")]
    assert found == [row["messages"][1]["tool_calls"] for row in rows]
