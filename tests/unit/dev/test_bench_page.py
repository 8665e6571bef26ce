"""The page and the picture of one run's figures."""

from xml.etree import ElementTree as ET

from dev.bench.figure import Goal, Measurement, Section
from dev.bench.page import Page
from dev.bench.plot import MET, MISSED, plot

FAST = Measurement("fast", "µs", [[1.0], [2.0], [3.0]])
SLOW = Measurement("slow", "µs", [[2.0], [2.0], [2.0]])
MET_GOAL = Goal("fast & slow", FAST.ratios_to(SLOW), 1.0, "x", 2)
MISSED_GOAL = Goal("slow / fast", SLOW.ratios_to(FAST), 0.5, "x", 2)


def page(*goals: Goal) -> Page:
    section = Section("Title", "How it was measured.", [FAST, SLOW], list(goals))
    return Page("the command", "2026-01-01", ["a machine"], "3 rounds", [section])


def test_a_ratio_is_of_each_round_and_its_spread_is_over_the_rounds() -> None:
    assert FAST.ratios_to(SLOW).text(2) == "1.00 (0.75 to 1.25)"


def test_the_page_names_what_was_missed() -> None:
    text = page(MET_GOAL, MISSED_GOAL).text()

    assert "| fast & slow | 1 x | 1.00 (0.75 to 1.25) x | met |" in text
    assert "**Missed: slow / fast (missed by 100 %).**" in text
    assert "None of these goals is missed." in page(MET_GOAL).text()


def test_the_picture_is_svg_with_a_bar_for_each_goal() -> None:
    picture = ET.fromstring(plot([MET_GOAL, MISSED_GOAL]))  # noqa: S314 (our own text)

    bars = [r.get("fill") for r in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == ["white", MET, MISSED]
    texts = [t.text for t in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "fast & slow" in texts
