"""Blocks of SQL by name."""

import pytest

from central.store.queries import Query, parse

TEXT = """-- About the file.

-- name: first
-- $1 what it is
select $1; -- stays

-- name: second
select
    -- stays too
    2;
"""


def test_blocks_are_found_by_their_names_without_their_headings() -> None:
    assert dict(parse(TEXT)) == {
        "first": Query("first", "select $1; -- stays"),
        "second": Query("second", "select\n    -- stays too\n    2"),
    }


def test_named_parameters_are_numbered_in_the_order_of_their_first_use() -> None:
    (query,) = parse("-- name: q\n-- @b, @a\nselect @b::int[], @a, @b\n").values()

    assert query.text == "select $1::int[], $2, $1"
    assert query.with_values({"a": 1, "b": [2]}) == (query, [2], 1)
    for wrong in ({"a": 1}, {"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}):
        with pytest.raises(KeyError, match=r"'[bc]'"):
            query.with_values(wrong)


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="two blocks are named first"):
        parse(TEXT + "-- name: first\nselect 1;\n")
