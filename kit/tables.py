"""Tables of commands: drawn by rich on a terminal, plain columns in a pipe or a file (ADR 67).

Cells are texts of others, names of users among them: nothing in them is markup, and what is not
printable, such as a terminal's control sequences, is escaped.
"""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

CLEAR_SCREEN = "\x1b[H\x1b[2J"


def cell(value: Any) -> str:
    """One line, whatever text it is; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    text = str(value)
    return text if text.isprintable() else ascii(text)


def duration(seconds: float | None) -> str:
    """As a person says it: `0.4 s`, `12 s`, `3 min`, `5.2 h`."""
    if seconds is None:
        return "-"
    for size_s, unit, until in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds < size_s * until:
            return f"{seconds / size_s:.{0 if seconds / size_s >= 10 else 1}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None
) -> None:
    texts = [[cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _print_drawn(headings, texts, title)
        return
    if title is not None:
        print(title)
    print(plain(headings, texts))


def plain(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    )
    return "\n".join(lines)


def _print_drawn(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str | None) -> None:
    from rich import box  # here: only who looks at a terminal pays for it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def watch(
    show: Callable[[], int],
    period_s: float | None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Shows once, or again and again until interrupted. Returns the last exit code."""
    if period_s is None:
        return show()
    while True:
        if sys.stdout.isatty():
            sys.stdout.write(CLEAR_SCREEN)
        code = show()
        sys.stdout.flush()
        try:
            sleep(period_s)
        except KeyboardInterrupt:
            return code
