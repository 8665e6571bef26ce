"""What a request is: where it ends, which head it repeats, and whether that head may be stored.

Only plain HTTP/1.1 requests are recognised. Anything else is `is_ambiguous`, has no key or is not
storable, and is left to aiohttp, which alone parses HTTP here.
"""

import re

from aiohttp import HttpVersion11, hdrs, web

HEAD_END = b"\r\n\r\n"
MAX_KEY_BYTES = 8190
"""aiohttp's own limit for one header: no head this short meets a limit of its parser."""
MAX_FRAMED_HEAD_BYTES = 64 * 1024
"""Longer heads are ambiguous; `ConnectionLimiter` and aiohttp have lower limits of their own."""

_BARE_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_CONTENT_LENGTH = re.compile(
    rb"\r\n(?i:content-length):[ \t]*([0-9]{1,15})[ \t]*(?=\r\n)",
)
_ANY_CONTENT_LENGTH = re.compile(rb"content-length", re.IGNORECASE)
_UNFRAMEABLE = re.compile(
    rb"\A\r\n|\ACONNECT |\r\n(?:transfer-encoding|upgrade|expect)[ \t]*:|\r\n[ \t]",
    re.IGNORECASE,
)

# Headers that differ between requests for the same thing and do not change the response: trace
# context goes to central only, and the request id is copied. A value with an unprintable byte
# stays in the head, and so does the continuation of a folded one: neither is ever a stored key.
_IGNORED_HEADERS = re.compile(
    rb"\r\n(?:(?i:traceparent|tracestate):[ \t]*[!-~][ -~]*"
    rb"|(?i:x-request-id):[ \t]*([A-Za-z0-9._:\-]{1,128})[ \t]*)(?=\r\n)"
)
_MAX_IGNORED_HEADERS = 3
_TRACEPARENT = re.compile(rb"\r\ntraceparent:[ \t]*([!-~]+)[ \t]*(?=\r\n)", re.IGNORECASE)
_UNSTORABLE_HEADERS = (hdrs.UPGRADE, hdrs.EXPECT, hdrs.TRANSFER_ENCODING)


class RequestFramer:
    """Follows the bytes of one request to its end while aiohttp reads the same bytes.

    `is_complete` once exactly its bytes have been fed; `is_ambiguous`, for good, if its end cannot
    be determined, or more bytes were fed.
    """

    __slots__ = ("_remaining_bytes", "head", "is_ambiguous")

    def __init__(self) -> None:
        self.head = b""
        self._remaining_bytes: int | None = None
        self.is_ambiguous = False

    @property
    def is_complete(self) -> bool:
        return self._remaining_bytes == 0 and not self.is_ambiguous

    @property
    def has_head(self) -> bool:
        return self._remaining_bytes is not None

    def feed(self, data: bytes) -> None:
        if self._remaining_bytes is not None:
            self._remaining_bytes -= len(data)
        else:
            self.head += data
            end = self.head.find(HEAD_END) + len(HEAD_END)
            if end >= len(HEAD_END):
                received_bytes = len(self.head)
                self.head = self.head[:end]
                body_bytes = _body_bytes(self.head)
                if body_bytes is None:
                    self.is_ambiguous = True
                    return
                self._remaining_bytes = body_bytes - (received_bytes - end)
            self.is_ambiguous |= len(self.head) > MAX_FRAMED_HEAD_BYTES
        self.is_ambiguous |= self._remaining_bytes is not None and self._remaining_bytes < 0


def _body_bytes(head: bytes) -> int | None:
    """The length of the body; None unless it is stated once, plainly."""
    if _UNFRAMEABLE.search(head) or _BARE_LINE_END.search(head):
        return None
    lengths = _CONTENT_LENGTH.findall(head)
    if len(lengths) != len(_ANY_CONTENT_LENGTH.findall(head)) or len(lengths) > 1:
        return None
    return int(lengths[0]) if lengths else 0


def read_key(data: bytes) -> tuple[bytes | None, bytes]:
    """The key of a request without a body, and its request id, or b"" if it has none.

    None unless `data` is exactly one head of bounded size. Its end is found before ignored headers
    are cut out, because one could follow the end and would be lost.
    """
    if len(data) > MAX_KEY_BYTES or data.find(HEAD_END) != len(data) - len(HEAD_END):
        return None, b""
    return _normalize_head(data)


def write_key(head: bytes) -> tuple[bytes | None, int, bytes]:
    """The key of a whole head of a request with a body, the body's length, and the request id.

    The key leaves the length out. None unless there is exactly one.
    """
    key, request_id = _normalize_head(head)
    lengths = _CONTENT_LENGTH.findall(key) if key is not None else ()
    if key is None or len(lengths) != 1:
        return None, 0, request_id
    return _CONTENT_LENGTH.sub(b"", key), int(lengths[0]), request_id


def traceparent_of(data: bytes) -> str | None:
    """The `traceparent` of a request that has a key, for the log."""
    found = _TRACEPARENT.search(data, 0, data.find(HEAD_END) + len(HEAD_END))
    return found[1].decode() if found is not None else None


def _normalize_head(head: bytes) -> tuple[bytes | None, bytes]:
    """The head without ignored headers, unless there are more than a request has; its id."""
    key, ignored_count = _IGNORED_HEADERS.subn(b"", head)
    if not ignored_count:
        return key, b""
    ids = (match[1] for match in _IGNORED_HEADERS.finditer(head))
    request_id = next(filter(None, ids), b"")
    return (key if ignored_count <= _MAX_IGNORED_HEADERS else None), request_id


def is_storable(head: bytes, request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Whether later requests with this head may be served without aiohttp."""
    return (
        isinstance(response, web.Response)
        and response.keep_alive is True
        and request.version == HttpVersion11
        and request.keep_alive
        and not any(name in request.headers for name in _UNSTORABLE_HEADERS)
        and len(head) <= MAX_KEY_BYTES
    )
