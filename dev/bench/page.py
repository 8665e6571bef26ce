"""docs/benchmarks.md, and the same text for a terminal."""

from dev.bench.figure import Section

METHOD = (
    "Medians, with quartiles in parentheses. The ways of a measurement take turns within each "
    "round; a ratio is that of the round's medians, and its median and quartiles are over the "
    "rounds."
)
NOT_MEASURED = (
    "Not measured yet: nginx beside the cached read, CPU per request, an added round trip."
)


def page(command: str, date: str, machine: list[str], counts: str, sections: list[Section]) -> str:
    """The whole page, in Markdown."""
    goals = [goal for section in sections for goal in section.goals]
    missed = [goal for goal in goals if not goal.is_met]
    lines = [
        "# Benchmarks",
        "",
        f"First figures, from one run of `{command}` on {date}, which wrote this page.",
        "",
        *[f"- {line}" for line in machine],
        f"- {counts}",
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
        NOT_MEASURED,
    ]
    for section in sections:
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
