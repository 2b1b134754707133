import base64
import datetime
import decimal
import gzip
import json
import math
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from influcoder_lightning import load_rows, row_ids, write_jsonl
from influcoder_lightning.data import dataset_folder
from influcoder_lightning.data.rows import unread_rows
from influcoder_lightning.errors import DataError

ROW = '{"prompt": "p", "response": "r"}'
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.fixed_dictionaries(
    {"prompt": TEXT, "response": TEXT},
    optional={"id": NAMES | st.integers(-(2**63), 2**63 - 1), "task": TEXT, "extra": VALUES},
)


def write(folder, content):
    path = folder / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_rows_survive_writing_and_reading(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "deep" / "rows.jsonl"
    write_jsonl(rows, path)
    assert load_rows(path) == rows
    assert list(path.parent.iterdir()) == [path]


def test_separators_inside_strings_do_not_end_a_line(tmp_path):
    path = write(tmp_path, '{"prompt": "a\u2028b\x85c", "response": "r"}\n' + ROW)
    assert [row["prompt"] for row in load_rows(path)] == ["a\u2028b\x85c", "p"]


def test_byte_order_mark_windows_lines_and_blank_end_are_accepted(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" + f"{ROW}\r\n{ROW}\r\n\r\n  \n".encode())
    assert len(load_rows(path)) == 2


def test_null_in_an_optional_field_counts_as_absent(tmp_path):
    path = write(tmp_path, '{"prompt": "p", "response": "r", "id": null, "task": null}')
    assert row_ids(load_rows(path)) == [0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no valid JSON"),
        ("[1]", "not list"),
        ('"text"', "not str"),
        ('{"response": "r"}', "'prompt' is missing"),
        ('{"prompt": "p"}', "'response' is missing"),
        ('{"prompt": 1, "response": "r"}', "'prompt' must be a string, not int"),
        ('{"prompt": "p", "response": null}', "'response' must be a string, not NoneType"),
        ('{"prompt": "p", "response": "r", "id": true}', "'id' must be an integer or a string"),
        ('{"prompt": "p", "response": "r", "id": 1.5}', "'id' must be"),
        ('{"prompt": "p", "response": "r", "id": 9223372036854775808}', "64 bits"),
        ('{"prompt": "p", "response": "r", "task": 3}', "'task' must be a string"),
        ('{"prompt": "p", "response": "r", "group": [1]}', "'group' must be a string"),
        ('{"prompt": "p", "response": "r", "x": NaN}', "NaN is not JSON"),
        ('{"prompt": "p", "response": "r", "x": [-Infinity]}', "Infinity is not JSON"),
        ('{"prompt": "p", "response": "r", "x": 1e999}', "larger than a double"),
        ('{"prompt": "\\ud800", "response": "r"}', "lone surrogate"),
        ('{"prompt": "p", "response": "r", "\\uDC00": 1}', "lone surrogate"),
        (b'{"prompt": "\xff", "response": "r"}', "not UTF-8"),
        (b'{"prompt": "\xed\xa0\x80", "response": "r"}', "not UTF-8"),
        ("[" * 100_000, "no valid JSON"),
        ('{"prompt": "p", "response": "r", "x": ' + "1" * 5000 + "}", "no valid JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path, ROW.encode() + b"\n" + line + b"\n" + ROW.encode())
    with pytest.raises(DataError, match=message) as caught:
        load_rows(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_surrogate_pairs_are_one_character(tmp_path):
    path = write(tmp_path, '{"prompt": "\\ud83d\\ude00", "response": "\\\\ud800"}')
    assert load_rows(path)[0] == {"prompt": "\U0001f600", "response": "\\ud800"}


def test_a_blank_line_between_rows_is_an_error(tmp_path):
    with pytest.raises(DataError, match=":2: blank line"):
        load_rows(write(tmp_path, f"{ROW}\n\n{ROW}\n"))


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_pool_is_an_error(tmp_path, content):
    with pytest.raises(DataError, match="no rows"):
        load_rows(write(tmp_path, content))


def test_what_is_no_file_and_no_dataset_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_rows(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="a folder without data files"):
        load_rows(tmp_path)
    (tmp_path / "dataset_dict.json").write_text("{}")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"Give data\.split: train"):
        load_rows(tmp_path)


def test_a_dataset_folder_is_checked_like_a_file(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    rows = [{"prompt": "p", "response": "r", "id": None}, {"prompt": "p", "response": 2}]
    stub = types.SimpleNamespace(load_from_disk=lambda path: rows)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    with pytest.raises(DataError, match="row 1: the field 'response'"):
        load_rows(tmp_path)
    rows.pop()
    assert load_rows(tmp_path) == rows


def test_a_real_dataset_folder_opens(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    rows = [{"prompt": "p", "response": "r", "id": 4}, {"prompt": "q", "response": "s", "id": None}]
    # An explicit fingerprint: hashing the table fails in `datasets` with some pyarrow releases.
    table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
    datasets.Dataset(table, fingerprint="f" * 16).save_to_disk(str(tmp_path / "set"))
    assert load_rows(tmp_path / "set") == rows


def test_the_text_of_a_dataset_folder_is_bounded_by_its_size(tmp_path, monkeypatch):
    """Up to the bound every row is read; the row that goes beyond it is named."""
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    rows = [{"prompt": "p" * 30, "response": "r" * i} for i in range(10)]
    table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
    datasets.Dataset(table, fingerprint="f" * 16).save_to_disk(str(tmp_path / "set"))
    size = sum(path.stat().st_size for path in (tmp_path / "set").glob("*.arrow"))
    text = sum(64 + len("promptresponse") + 30 + i for i in range(10))
    monkeypatch.setattr(dataset_folder, "_TIMES", 2)
    monkeypatch.setattr(dataset_folder, "_FREE", text - 2 * size)
    assert load_rows(tmp_path / "set") == rows
    monkeypatch.setattr(dataset_folder, "_FREE", text - 2 * size - 1)
    with pytest.raises(DataError, match=f"row 9: the rows take more than {text - 1:,} bytes"):
        load_rows(tmp_path / "set")


def test_columns_that_json_does_not_know_are_written_in_a_form_that_it_does(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    noon = datetime.datetime(2024, 1, 31, 12, tzinfo=datetime.UTC)
    odd = {
        "made": noon,
        "day": noon.date(),
        "took": datetime.timedelta(seconds=1.5),
        "quality": math.nan,
        "raw": b"\xff\x00",
        "price": decimal.Decimal("1.10"),
        "nested": [{"at": noon, "score": -math.inf}],
    }
    row = {"prompt": "p", "response": "r"}
    table = pytest.importorskip("pyarrow").Table.from_pylist([row | odd])
    datasets.Dataset(table, fingerprint="f" * 16).save_to_disk(str(tmp_path / "set"))
    write_jsonl(load_rows(tmp_path / "set"), tmp_path / "selected.jsonl")
    assert load_rows(tmp_path / "selected.jsonl") == [
        row
        | {
            "made": "2024-01-31T12:00:00+00:00",
            "day": "2024-01-31",
            "took": 1.5,
            "quality": None,
            "raw": base64.b64encode(b"\xff\x00").decode(),
            "price": "1.10",
            "nested": [{"at": "2024-01-31T12:00:00+00:00", "score": None}],
        }
    ]


def test_a_column_without_a_json_form_is_refused_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    rows = [{"prompt": "p", "response": "r", "meta": {"picture": object()}}]
    stub = types.SimpleNamespace(load_from_disk=lambda path: rows)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    with pytest.raises(DataError, match=r"row 0: the column 'meta.picture' holds a object"):
        load_rows(tmp_path)


def test_ids_are_given_or_counted():
    def named(*ids):
        return row_ids([{} if name is None else {"id": name} for name in ids])

    assert named(None, None) == [0, 1]
    assert named(5, 5) == [5, 5]
    assert named("a", None) == ["a", "1"]
    assert named(7, None) == [7, 1]
    assert named(7, "b") == ["7", "b"]
    with pytest.raises(DataError, match="row 1 has no id"):
        named(1, None)
    with pytest.raises(DataError, match="row 1 has no id"):
        named("1", None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, "\ud800"])
def test_writing_something_else_leaves_the_old_file(tmp_path, value):
    path = write(tmp_path, "old")
    with pytest.raises(DataError, match="row 1 cannot be written"):
        write_jsonl([{"a": 1}, {"a": value}], path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_written_as_it_is(tmp_path):
    write_jsonl([{"prompt": "\u00e4\u2028", "n": 1}], tmp_path / "x.jsonl")
    line = (tmp_path / "x.jsonl").read_bytes()
    assert line.decode("utf-8") == '{"prompt": "\u00e4\u2028", "n": 1}\n'
    assert json.loads(line) == {"prompt": "\u00e4\u2028", "n": 1}


# -------------------------------------------------------------------- packed, several, one by one


@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(0, 6))
def test_packed_files_and_several_are_their_rows_in_order(tmp_path_factory, rows, cut):
    folder = tmp_path_factory.mktemp("rows")
    write_jsonl(rows[:cut], folder / "rows-a.jsonl")
    write_jsonl(rows[cut:], folder / "rest.jsonl")
    packed = gzip.compress((folder / "rest.jsonl").read_bytes())
    (folder / "rows-b.jsonl.gz").write_bytes(packed)
    assert load_rows(folder / "rows-[ab].*") == rows


def test_a_name_that_is_there_is_no_pattern(tmp_path):
    (tmp_path / "a[1].jsonl").write_text(ROW)
    (tmp_path / "a1.jsonl").write_text(f"{ROW}\n{ROW}")
    assert len(load_rows(tmp_path / "a[1].jsonl")) == 1
    with pytest.raises(DataError, match=r"b\*\.jsonl: no such file"):
        load_rows(tmp_path / "b*.jsonl")


@pytest.mark.parametrize("keep", [0, 5, 20, -4])
def test_a_damaged_packed_file_names_its_line(tmp_path, keep):
    packed = gzip.compress((ROW + "\n").encode() * 50)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(packed[:keep] if keep else b"not packed")
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz(:\d+)?: cannot be read"):
        load_rows(path)


def test_rows_are_parsed_when_they_are_asked_for(tmp_path):
    path = write(tmp_path, f"{ROW}\n{{broken\n{ROW}")
    first, broken, last = unread_rows(path)
    assert first() == last() == json.loads(ROW)
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no valid JSON"):
        broken()
