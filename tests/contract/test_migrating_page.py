"""The page that maps old calls to new ones names every call, no other, and every row's tests."""

import re
from pathlib import Path

from sidecar.server.app import ROUTES
from tests.databases import ROOT

PAGE = (ROOT / "docs" / "migrating-from-sqlserver.md").read_text()
ROWS = range(1, 19)


def test_the_page_names_every_call_and_no_other() -> None:
    named = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^` ]*)`", PAGE))

    assert named == {f"{route.method} {route.path}" for route in ROUTES}


def test_every_row_is_on_the_page_and_has_a_test_named_for_it() -> None:
    on_page = {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    folder = Path(__file__).parent / "rows"
    tests = "\n".join(path.read_text() for path in folder.glob("test_*.py"))
    tested = {int(number) for number in re.findall(r"def test_row_(\d\d)_", tests)}

    assert on_page == {*ROWS, 27}
    assert tested == set(ROWS)
