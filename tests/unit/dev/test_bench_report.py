"""The report and the plot of one run's measurements."""

from xml.etree import ElementTree as ET

from dev.bench.measurement import Goal, Measurement, Section
from dev.bench.report import MET, MISSED, Report, plot

FAST = Measurement("fast", "µs", [[1.0], [2.0], [3.0]])
SLOW = Measurement("slow", "µs", [[2.0], [2.0], [2.0]])
MET_GOAL = Goal("fast & slow", FAST.ratios_to(SLOW), 1.0, "x", 2)
MISSED_GOAL = Goal("slow / fast", SLOW.ratios_to(FAST), 0.5, "x", 2)


def report(*goals: Goal) -> Report:
    section = Section("Title", "How it was measured.", [FAST, SLOW], list(goals))
    return Report("the command", "2026-01-01", ["a machine"], "3 rounds", [section])


def test_ratio_is_per_round_and_its_quartiles_over_rounds() -> None:
    assert FAST.ratios_to(SLOW).text(2) == "1.00 (0.75 to 1.25)"


def test_report_names_missed_goals() -> None:
    text = report(MET_GOAL, MISSED_GOAL).text()

    assert "| fast & slow | 1 x | 1.00 (0.75 to 1.25) x | met |" in text
    assert "**Missed: slow / fast (missed by 100 %).**" in text
    assert "None of these goals is missed." in report(MET_GOAL).text()


def test_plot_is_svg_with_a_bar_per_goal() -> None:
    image = ET.fromstring(plot([MET_GOAL, MISSED_GOAL]))  # noqa: S314 (our own text)

    bars = [r.get("fill") for r in image.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == ["white", MET, MISSED]
    texts = [t.text for t in image.iter("{http://www.w3.org/2000/svg}text")]
    assert "fast & slow" in texts
