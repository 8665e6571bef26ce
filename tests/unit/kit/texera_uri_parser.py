"""A reference parser: how Texera reads a stored URI.

Independent of `kit.texera.uris` on purpose: it splits, searches by first occurrence and decodes
as Texera does, because what counts is the table that Texera would open, or drop, for an accepted
text.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

_WAREHOUSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]*")
_LEGAL = re.compile(r"(?:[A-Za-z0-9\-_.!~*'();:@&=+$,/]|%[0-9A-Fa-f]{2}|[^\x00-\x7f\x80-\x9f\s])*")
KINDS = {"result", "state", "consolemessages", "runtimestatistics"}


class UnparseableUri(Exception):
    """Texera throws, which breaks every lookup of the execution."""


@dataclass(frozen=True)
class ParsedUri:
    warehouse: str | None
    workflow_id: int
    execution_id: int
    port: str | None
    operator: str | None
    kind: str
    table: str


def parse(uri: str) -> ParsedUri:
    scheme, colon, rest = uri.partition(":")
    if scheme.lower() != "vfs" or not colon:
        raise UnparseableUri("scheme")
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    if fragment or query or not rest.startswith("//") or not _LEGAL.fullmatch(rest):
        raise UnparseableUri("syntax")
    authority, _, path = rest[2:].partition("/")
    if authority:
        raise UnparseableUri("authority")
    segments = path.split("/")
    warehouse = None
    if segments[0] == "wh" and len(segments) > 1 and _WAREHOUSE.fullmatch(segments[1]):
        warehouse = segments[1]
    kind = segments[-1].lower()
    if kind not in KINDS:
        raise UnparseableUri("kind")

    def after(key: str) -> str | None:
        if key not in segments[:-1]:
            return None
        return segments[segments.index(key) + 1]

    try:
        workflow_id, execution_id = int(after("wid") or ""), int(after("eid") or "")
    except ValueError as error:
        raise UnparseableUri("ids") from error
    return ParsedUri(
        warehouse,
        workflow_id,
        execution_id,
        after("globalportid"),
        after("opid"),
        kind,
        unquote(path).replace("/", "_"),
    )
