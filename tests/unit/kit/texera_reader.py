"""How Texera reads a stored URI, written anew from TEXERA.md section 7 to judge ours by.

Deliberately not ours: it splits, searches by first occurrence and decodes as the product does,
because what matters is which table Texera would open, or drop, for a text that we let through.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

_WAREHOUSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]*")
_LEGAL = re.compile(r"(?:[A-Za-z0-9\-_.!~*'();:@&=+$,/]|%[0-9A-Fa-f]{2}|[^\x00-\x7f\x80-\x9f\s])*")
KINDS = {"result", "state", "consolemessages", "runtimestatistics"}


class Unreadable(Exception):
    """Texera throws, which breaks every look-up of the execution."""


@dataclass(frozen=True)
class Read:
    warehouse: str | None
    workflow_id: int
    execution_id: int
    port: str | None
    operator: str | None
    kind: str
    table: str


def read(uri: str) -> Read:
    scheme, colon, rest = uri.partition(":")
    if scheme.lower() != "vfs" or not colon:
        raise Unreadable("scheme")
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    if fragment or query or not rest.startswith("//") or not _LEGAL.fullmatch(rest):
        raise Unreadable("syntax")
    authority, _, path = rest[2:].partition("/")
    if authority:
        raise Unreadable("authority")
    segments = path.split("/")
    warehouse = None
    if segments[0] == "wh" and len(segments) > 1 and _WAREHOUSE.fullmatch(segments[1]):
        warehouse = segments[1]
    kind = segments[-1].lower()
    if kind not in KINDS:
        raise Unreadable("kind")

    def after(key: str) -> str | None:
        if key not in segments[:-1]:
            return None
        return segments[segments.index(key) + 1]

    try:
        workflow_id, execution_id = int(after("wid") or ""), int(after("eid") or "")
    except ValueError as error:
        raise Unreadable("ids") from error
    return Read(
        warehouse,
        workflow_id,
        execution_id,
        after("globalportid"),
        after("opid"),
        kind,
        unquote(path).replace("/", "_"),
    )
