"""The goals as one picture: how much of its goal each measured figure takes."""

from html import escape

from dev.bench.figure import Goal

LABEL_WIDTH, BAR_WIDTH, ROW_HEIGHT, MARGIN = 420, 360, 24, 30
SHOWN_MAX = 2.0
"""Bars end here: a goal missed by more is told by its number."""
MET, MISSED, INK, FAINT = "#2a7f62", "#b3402a", "#222222", "#999999"
FONT = f'font-family="sans-serif" font-size="12" fill="{INK}"'


def plot(goals: list[Goal]) -> str:
    """SVG. The line is the goal, a bar that ends before it meets it; whiskers are quartiles."""
    height = MARGIN * 2 + ROW_HEIGHT * len(goals)
    width = LABEL_WIDTH + BAR_WIDTH + 140
    at_goal = LABEL_WIDTH + BAR_WIDTH / SHOWN_MAX
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {FONT}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{at_goal}" y="18" text-anchor="middle">goal</text>',
    ]
    for row, goal in enumerate(goals):
        lines += _row(goal, MARGIN + ROW_HEIGHT * row)
    bottom = height - MARGIN
    lines.append(
        f'<line x1="{at_goal}" y1="{MARGIN - 6}" x2="{at_goal}" y2="{bottom}" stroke="{INK}"/>'
    )
    return "\n".join([*lines, "</svg>", ""])


def _row(goal: Goal, top: int) -> list[str]:
    limit = goal.limit or 1.0  # a goal of none at all: one is as long as the goal
    low, middle, high = (
        LABEL_WIDTH + BAR_WIDTH * min(value / limit, SHOWN_MAX) / SHOWN_MAX
        for value in (goal.measured.low, goal.measured.median, goal.measured.high)
    )
    colour = MET if goal.is_met else MISSED
    text = top + ROW_HEIGHT / 2 + 4
    mid, width = top + ROW_HEIGHT / 2, middle - LABEL_WIDTH
    shown = f"{goal.measured.median:.{goal.digits}f} of {goal.limit:g} {goal.unit}"
    return [
        f'<text x="{LABEL_WIDTH - 8}" y="{text}" text-anchor="end">{escape(goal.what)}</text>',
        f'<rect x="{LABEL_WIDTH}" y="{top + 5}" width="{width:.1f}" height="14" fill="{colour}"/>',
        f'<line x1="{low:.1f}" y1="{mid}" x2="{high:.1f}" y2="{mid}" stroke="{FAINT}"/>',
        f'<text x="{LABEL_WIDTH + BAR_WIDTH + 8}" y="{text}">{escape(shown)}</text>',
    ]
