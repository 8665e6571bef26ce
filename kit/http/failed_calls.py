"""The log line of a failed call: which call of whom failed, why, and under which ids to look.

A call's `request_id` is in its problem document, in this line, and in the lines of the service that
was called on its behalf, as the id is passed on. Nothing here runs for a call that succeeds.
"""

import logging
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias

from aiohttp import web

from kit.http.logs import limited_fields
from kit.http.problems import InternalError, InvalidRequest, Problem

logger = logging.getLogger(__name__)

DescribeCaller: TypeAlias = Callable[[web.Request], Mapping[str, Any]]
DESCRIBE_CALLER: web.AppKey[DescribeCaller] = web.AppKey("describe_caller")
"""The service's own ids of a request's caller: its user, source and computing unit."""

MAX_DETAIL_LENGTH = 300
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_ID = re.compile(r"[0-9]{1,10}", re.ASCII)
_PATH_IDS = ("execution_id", "workflow_id", "computing_unit_id")


def trace_id(traceparent: str | None) -> str | None:
    """The trace id of a `traceparent` (W3C Trace Context); None for anything else."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found is not None else None


def ids_of(request: web.Request) -> dict[str, Any]:
    """What the log names of a request: its trace, the ids of its path, its caller."""
    match_info = request.match_info
    ids: dict[str, Any] = {"trace_id": trace_id(request.headers.get("traceparent"))}
    ids |= {
        name: int(value) for name in _PATH_IDS if _ID.fullmatch(value := match_info.get(name, ""))
    }
    describe = request.app.get(DESCRIBE_CALLER)
    return ids | ({} if describe is None else dict(describe(request)))


def log_failed_call(
    problem: Problem,
    request_id: str,
    method: str,
    route: str,
    ids: Mapping[str, Any],
    error: BaseException | None = None,
) -> None:
    """One line, limited by the problem's slug. `error` is the bug behind an `internal-error`.

    The detail of an `invalid-request` is left out: it quotes what the caller sent.
    """
    level = logging.INFO if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR else logging.WARNING
    if isinstance(problem, InternalError):
        level = logging.ERROR
    if not logger.isEnabledFor(level):
        return
    detail = None if isinstance(problem, InvalidRequest) else problem.detail[:MAX_DETAIL_LENGTH]
    named = {
        **ids,
        "write_id": problem.members.get("write_id"),
        "detail": detail,
    }
    logger.log(
        level,
        "call failed",
        exc_info=error,
        extra=limited_fields(
            problem.slug,
            request_id,
            request_id=request_id,
            method=method,
            route=route,
            status=problem.status,
            problem=problem.slug,
            **{name: value for name, value in named.items() if value is not None},
        ),
    )
