"""The page's parts that need no browser: samples, rates, bounds, policy."""

import base64
import hashlib
import re
from importlib.resources import files

import pytest

from kit.http.page import SAMPLE_COUNT, SAMPLE_PERIOD_S, History, content_security_policy

HTML = files("kit.http").joinpath("page.html").read_text(encoding="utf-8")


class Source:
    """Numbers that a test sets, and a clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waiting = 0.0
        self.writes = 0.0

    def history(self) -> History:
        return History(
            lambda: {"waiting": self.waiting},
            lambda: {"writes": self.writes},
            monotonic=lambda: self.now_s,
        )


def values(history: History, name: str) -> list[float]:
    found: list[float] = history.plot("t", "u", {name: name})["series"][0]["values"]
    return found


def test_gauges_are_kept_as_they_were_and_counters_as_rates() -> None:
    source = Source()
    history = source.history()
    source.writes = 100  # counted before anybody sampled
    for waiting, writes in ((0, 0), (3, 10), (1, 25)):
        source.waiting = waiting
        source.writes += writes
        history.sample()
        source.now_s += SAMPLE_PERIOD_S

    assert values(history, "waiting") == [0, 3, 1]
    assert values(history, "writes") == pytest.approx([0, 2, 5])
    assert values(history, "of another version") == []


def test_samples_are_bounded() -> None:
    source = Source()
    history = source.history()
    for number in range(3 * SAMPLE_COUNT):
        source.waiting = number
        history.sample()

    kept = values(history, "waiting")
    assert (len(kept), kept[-1]) == (SAMPLE_COUNT, 3 * SAMPLE_COUNT - 1)


def test_the_policy_admits_the_pages_own_script_and_nothing_inline() -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", HTML, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    policy = content_security_policy(HTML)

    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert content_security_policy(HTML.replace('"use strict"', '"used"')) != policy


def test_the_page_is_self_contained_and_never_makes_markup_of_text() -> None:
    addresses = set(re.findall(r"https?://[^\"'\s)]+", HTML))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace, which nobody fetches
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", HTML)
    assert not re.search(r"\son\w+=|\sstyle=", HTML)
