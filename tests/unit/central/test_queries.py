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


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="two blocks are named first"):
        parse(TEXT + "-- name: first\nselect 1;\n")
