"""Heads of requests, compared without what changes from request to request and means nothing."""

import email.utils
import re
import secrets
from collections.abc import Callable

from aiohttp import HttpVersion11, hdrs, web

HEAD_MAX_BYTES = 8190
"""aiohttp's own limit for one header: no head this short meets a limit of its parser."""

# What may differ between two requests for the same thing and changes nothing in the answer:
# trace context goes to central only, and the request id is copied. A value with anything
# unprintable is left in, and of a folded one the fold, so that neither is ever a known head.
_VARYING = re.compile(
    rb"\r\n(?:(?i:traceparent|tracestate):[ \t]*[!-~][ -~]*"
    rb"|(?i:x-request-id):[ \t]*([A-Za-z0-9._:\-]{1,128})[ \t]*)(?=\r\n)"
)
_VARYING_MAX = 3
_TAKES_MORE_THAN_A_LOOK = (hdrs.UPGRADE, hdrs.EXPECT, hdrs.TRANSFER_ENCODING)


def normalize_head(head: bytes) -> tuple[bytes | None, bytes]:
    """The head without what varies, and the caller's own request id.

    None if there is more that varies than one request has; the first id of several; an empty one
    if there is none.
    """
    plain, count = _VARYING.subn(b"", head)
    if not count:
        return plain, b""
    request_id = next((match[1] for match in _VARYING.finditer(head) if match[1]), b"")
    return plain if count <= _VARYING_MAX else None, request_id


def is_cacheable(head: bytes, request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Whether nothing in the request keeps a later one with its head from being answered here."""
    return (
        isinstance(response, web.Response)
        and response.keep_alive is True
        and request.version == HttpVersion11
        and request.keep_alive
        and not any(name in request.headers for name in _TAKES_MORE_THAN_A_LOOK)
        and len(head) <= HEAD_MAX_BYTES
    )


class Stamp:
    """The end of an answer's head: its request id and its date, and the empty line."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._id_prefix = secrets.token_hex(4).encode()
        self._id_count = 0
        self._date_s = -1
        self._date = b""

    def request_id(self, given: bytes) -> bytes:
        """The caller's own id or a new one."""
        if given:
            return given
        self._id_count += 1
        return b"%s%08x" % (self._id_prefix, self._id_count)

    def __call__(self, request_id: bytes) -> bytes:
        wall_s = int(self._wall_clock())
        if wall_s != self._date_s:
            self._date_s = wall_s
            self._date = email.utils.formatdate(wall_s, usegmt=True).encode()
        return b"X-Request-Id: %s\r\nDate: %s\r\n\r\n" % (request_id, self._date)
