import warnings

import pytest

from influcoder_lightning.data.overlap import check_overlap
from influcoder_lightning.errors import DataError


def rows(*texts, ids=None):
    made = [{"prompt": text, "response": text.upper()} for text in texts]
    for row, name in zip(made, ids or [], strict=False):
        row["id"] = name
    return made


def test_disjoint_rows_pass_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_overlap(rows("a", "b"), rows("c"), rows("d")) == []


def test_the_same_prompt_with_another_response_is_no_overlap():
    other = [{"prompt": "a", "response": "another"}]
    assert check_overlap(rows("a"), rows("b"), other) == []


@pytest.mark.parametrize(
    ("pool", "query", "name"),
    [(["a", "b", "c", "d", "e"], ["x"], "5 pool"), (["x"], ["a", "b", "c", "d", "e"], "5 query")],
)
def test_leaks_into_the_evaluation_are_errors(pool, query, name):
    with pytest.raises(DataError, match=rf"{name} row\(s\) are also evaluation rows.*'a'.*\.\.\."):
        check_overlap(rows(*pool), rows(*query), rows("a", "b", "c", "d", "e"))


def test_the_same_explicit_id_is_an_overlap():
    with pytest.raises(DataError, match="id 3"):
        check_overlap(rows("a", ids=[3]), rows("b"), rows("c", ids=["3"]))


def test_the_index_of_a_row_is_no_id():
    assert check_overlap(rows("a"), rows("b"), rows("c", ids=[0])) == []


def test_pool_and_query_overlap_is_a_warning_with_the_count():
    with pytest.warns(UserWarning, match=r"2 pool row\(s\) are also query rows") as caught:
        messages = check_overlap(rows("a", "b", "c"), rows("a", "b"), rows("d"))
    assert messages == [str(caught[0].message)]
