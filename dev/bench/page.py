"""docs/benchmarks.md, and the same text for a terminal."""

from dataclasses import dataclass

from dev.bench.figure import Goal, Section

METHOD = (
    "Medians, with quartiles in parentheses. The ways of a measurement take turns within each "
    "round; a ratio is that of the round's medians, and its median and quartiles are over the "
    "rounds."
)
SHARED = (
    "The machine is shared with other work, so absolute times move by two and more between rounds; "
    "only ratios within one run mean something."
)


@dataclass(frozen=True)
class Page:
    """One run's figures."""

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
                f" {goal.measured.text(goal.digits)} {goal.unit} | {goal.verdict} |"
            )
        lines.append("")
        if missed:
            named = "; ".join(f"{goal.what} ({goal.verdict})" for goal in missed)
            lines.append(f"**Missed: {named}.**")
        else:
            lines.append("None of these goals is missed.")
        lines += [
            "",
            SHARED,
            "",
            "![each figure as a share of its goal](benchmarks.svg)",
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
                f"| {figure.name} | {figure.count} |"
                f" {figure.quartiles.text(figure.digits)} {figure.unit} |"
                for figure in section.figures
            ]
        return "\n".join(lines) + "\n"
