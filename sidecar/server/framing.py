"""Where one request ends, told for the plainest requests only."""

import re

FOLLOWED_MAX_BYTES = 64 * 1024
"""Longer heads are left to aiohttp, whose own limits are below."""

_STRAY_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*(?=\r\n)", re.IGNORECASE)
_UNFRAMEABLE = re.compile(
    rb"\A\r\n|\ACONNECT |\r\n(?:transfer-encoding|upgrade|expect)[ \t]*:|\r\n[ \t]",
    re.IGNORECASE,
)


class RequestFramer:
    """The bytes of one request, followed to its end while aiohttp reads the same bytes.

    `is_whole` once exactly its bytes have been fed; `is_ambiguous` if that cannot be told, or if
    more was fed. A lost message is never found again: where one request ends is then known
    to aiohttp alone, and guessing is how requests are smuggled.
    """

    __slots__ = ("_left_bytes", "head", "is_ambiguous")

    def __init__(self) -> None:
        self.head = b""
        self._left_bytes: int | None = None
        self.is_ambiguous = False

    @property
    def is_whole(self) -> bool:
        return self._left_bytes == 0 and not self.is_ambiguous

    @property
    def has_head(self) -> bool:
        return self._left_bytes is not None

    def feed(self, data: bytes) -> None:
        if self._left_bytes is not None:
            self._left_bytes -= len(data)
        else:
            self.head += data
            end = self.head.find(b"\r\n\r\n") + 4
            if end >= 4:
                fed = len(self.head)
                self.head = self.head[:end]
                length = _body_bytes(self.head)
                if length is None:
                    self.is_ambiguous = True
                    return
                self._left_bytes = length - (fed - end)
            self.is_ambiguous |= len(self.head) > FOLLOWED_MAX_BYTES
        self.is_ambiguous |= self._left_bytes is not None and self._left_bytes < 0


def _body_bytes(head: bytes) -> int | None:
    """How many bytes follow the head; None where it takes more than a look to know."""
    if _UNFRAMEABLE.search(head) or _STRAY_LINE_END.search(head):
        return None
    lengths = _LENGTH.findall(head)
    if len(lengths) != len(re.findall(rb"content-length", head, re.IGNORECASE)) or len(lengths) > 1:
        return None  # twice, or in a form that is not the plain one
    return int(lengths[0]) if lengths else 0
