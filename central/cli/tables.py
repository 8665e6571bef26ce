"""How commands read numbers and print tables."""

import argparse
from collections.abc import Sequence

from kit.http.validation import INT32_MAX


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what is in them."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    )
    return "\n".join(lines)


def positive(text: str) -> int:
    """An id from the command line."""
    number = int(text)
    if not 1 <= number <= INT32_MAX:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {INT32_MAX}")
    return number
