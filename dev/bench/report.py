"""The report of one run: docs/benchmarks.md, and its plot."""

from dataclasses import dataclass
from html import escape

from dev.bench.measurement import Goal, Section

METHOD = (
    "Medians, with quartiles in parentheses. The variants of a measurement take turns within each "
    "round; a ratio is that of the round's medians, and its median and quartiles are over the "
    "rounds."
)
SHARED = (
    "The machine is shared with other work, so absolute times move by two and more between rounds; "
    "only ratios within one run mean something."
)
LABEL_WIDTH, BAR_WIDTH, ROW_HEIGHT, MARGIN = 420, 360, 24, 30
SHOWN_MAX = 2.0
"""Where bars end, as a share of the goal; the number beside a bar is exact."""
MET, MISSED, INK, FAINT = "#2a7f62", "#b3402a", "#222222", "#999999"
FONT = f'font-family="sans-serif" font-size="12" fill="{INK}"'


@dataclass(frozen=True)
class Report:
    """All measurements of one run."""

    command: str
    date: str
    machine: list[str]
    counts: str
    sections: list[Section]

    @property
    def goals(self) -> list[Goal]:
        return [goal for section in self.sections for goal in section.goals]

    def text(self) -> str:
        """All of it, in Markdown."""
        goals = self.goals
        missed = [goal for goal in goals if not goal.is_met]
        lines = [
            "# Benchmarks",
            "",
            f"From one run of `{self.command}` on {self.date}, which wrote this page.",
            "",
            *[f"- {line}" for line in self.machine],
            f"- {self.counts}",
            "",
            METHOD,
            "",
            "## Goals",
            "",
            "| goal | at most | measured | |",
            "|---|---|---|---|",
        ]
        for goal in goals:
            lines.append(
                f"| {goal.what} | {goal.limit:g} {goal.unit} |"
                f" {goal.measured.text(goal.digits)} {goal.unit} | {goal.result} |"
            )
        lines.append("")
        if missed:
            named = "; ".join(f"{goal.what} ({goal.result})" for goal in missed)
            lines.append(f"**Missed: {named}.**")
        else:
            lines.append("None of these goals is missed.")
        lines += [
            "",
            SHARED,
            "",
            "![each measurement as a share of its goal](benchmarks.svg)",
        ]
        for section in self.sections:
            lines += [
                "",
                f"## {section.title}",
                "",
                section.how,
                "",
                "| | samples | |",
                "|---|---|---|",
            ]
            lines += [
                f"| {measurement.name} | {measurement.count} |"
                f" {measurement.quartiles.text(measurement.digits)} {measurement.unit} |"
                for measurement in section.measurements
            ]
        return "\n".join(lines) + "\n"


def plot(goals: list[Goal]) -> str:
    """SVG: a bar for each goal, a line at the limit, whiskers for quartiles."""
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
    limit = goal.limit or 1.0  # a limit of zero: a bar of one is as long as the goal
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
