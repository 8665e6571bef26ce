"""What `doctor` finds: checks with a verdict each, told to people or to scripts."""

from collections.abc import Iterable, Sequence
from enum import StrEnum, auto

import msgspec

EXIT_FAILED = 1
"""At least one check failed. Warnings alone end with 0."""


class Verdict(StrEnum):
    OK = auto()
    WARN = auto()
    FAIL = auto()


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. `detail` never holds a secret."""

    name: str
    verdict: Verdict
    detail: str


def ok(name: str, detail: str) -> Check:
    return Check(name, Verdict.OK, detail)


def warn(name: str, detail: str) -> Check:
    return Check(name, Verdict.WARN, detail)


def fail(name: str, detail: str) -> Check:
    return Check(name, Verdict.FAIL, detail)


def exit_code(checks: Iterable[Check]) -> int:
    return EXIT_FAILED if any(check.verdict is Verdict.FAIL for check in checks) else 0


def format_checks(checks: Sequence[Check], *, as_json: bool) -> str:
    """One line a check, aligned; or `{"checks": [...]}`."""
    if as_json:
        return msgspec.json.encode({"checks": checks}).decode()
    width = max((len(check.name) for check in checks), default=0)
    return "\n".join(
        f"{check.verdict.upper():<5} {check.name:<{width}}  {check.detail}" for check in checks
    )
