"""`doctor` of both services: named checks, one line each; exit code 1 if one failed.

A check is a function that returns what is fine, raises `Warn` or `Fail` with what is not, or a
`Problem`, OSError or ValueError (failed as well). No detail may contain a secret.
"""

import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum, auto
from typing import Any, TypeAlias

import msgspec

from kit.http.problems import Problem

CLOCK_WARN_S = 2.0
CLOCK_FAIL_S = 30.0
"""The default leeway of tokens and assertions."""


class CheckStatus(StrEnum):
    OK = auto()
    WARN = auto()
    FAIL = auto()


class Check(msgspec.Struct, frozen=True):
    name: str
    status: CheckStatus
    detail: str


class Warn(Exception):
    pass


class Fail(Exception):
    pass


CheckFunction: TypeAlias = Callable[[], str | Awaitable[str]]


async def run_checks(checks: Mapping[str, CheckFunction]) -> list[Check]:
    """Runs the checks in order."""
    return [await _run(name, function) for name, function in checks.items()]


async def _run(name: str, function: CheckFunction) -> Check:
    try:
        result = function()
        detail = await result if inspect.isawaitable(result) else result
    except Warn as warning:
        return Check(name, CheckStatus.WARN, str(warning))
    except Problem as problem:
        return Check(name, CheckStatus.FAIL, problem.detail)
    except (Fail, OSError, ValueError) as error:
        return Check(name, CheckStatus.FAIL, str(error))
    return Check(name, CheckStatus.OK, detail)


def check_clock(offset_s: float, other: str) -> str:
    """`offset_s` is the other's clock minus ours."""
    detail = f"{other}'s clock is {offset_s:+.1f} s from ours"
    if abs(offset_s) > CLOCK_FAIL_S:
        raise Fail(detail)
    if abs(offset_s) > CLOCK_WARN_S:
        raise Warn(detail)
    return detail


def is_loopback(host: str) -> bool:
    """Whether a connection to this host does not leave the machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def add_parser(commands: Any, description: str) -> Any:
    parser = commands.add_parser("doctor", help=f"{description}; exit code 1 if a check fails")
    parser.add_argument("--json", action="store_true", help="for scripts")
    return parser


def exit_code(checks: Iterable[Check]) -> int:
    return int(any(check.status is CheckStatus.FAIL for check in checks))


def format_checks(checks: Sequence[Check], *, as_json: bool) -> str:
    """One aligned line a check; or `{"checks": [...]}`."""
    if as_json:
        return msgspec.json.encode({"checks": checks}).decode()
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{c.status.upper():<5} {c.name:<{width}}  {c.detail}" for c in checks)
