"""The identifiers Texera stores: global port ids, operator ids and VFS URIs.

Texera's clean-up drops whatever table a stored URI names, so a wrong URI destroys data. URIs
are therefore compared, not parsed: Texera mints exactly one text for a given execution, port or
operator, and only that text is accepted for the row. No percent-encoding, doubled or dot
segment, other authority or query can equal it. Only the case of the last segment is free,
because Texera reads it case-insensitively.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

GLOBAL_PORT_ID_MAX_LENGTH = 200  # operator_port_executions.global_port_id VARCHAR(200)
OPERATOR_ID_MAX_LENGTH = 100  # operator_executions.operator_id VARCHAR(100)
UNPRINTABLE = (
    r"\u0000-\u001f\u007f-\u009f"  # controls
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # order of writing (Unicode UAX 9)
    r"\u2028\u2029"  # ends of lines and paragraphs
)
"""Members of a pattern's class. A name or id that holds one is shown as another than it is."""
PORT_NUMBER_MAX = 2**31 - 1  # a Scala Int

# What java.net.URI takes in a path: unreserved, `;/?:@&=+$,` and "other" characters (neither ASCII,
# nor control, nor space). `/`, `?` and `#` are excluded: they end the id. Escapes and dot segments
# are excluded as well: what decodes or resolves a URI makes another id of them, and Texera's own
# ids have none.
_OTHER_CHARACTERS = rf"[^\x00-\x7f\s{UNPRINTABLE}]"
_LEGAL_IN_URI = re.compile(rf"(?:[A-Za-z0-9\-_.!~*'();:@&=+$,]|{_OTHER_CHARACTERS})+")
_DOT_SEGMENTS = (".", "..")

_GLOBAL_PORT_ID = re.compile(
    r"\(logicalOpId=([^,/_]+),layerName=([^,/_]+),"
    r"portId=(0|[1-9][0-9]{0,9}),isInternal=(true|false),isInput=(true|false)\)"
)

# The same as JSON Schema, for OpenAPI; a port number of ten digits is valid only up to INT32, which
# no pattern says.
_SCHEMA_CHARACTERS = rf"[A-Za-z0-9\-_.!~*'();:@&=+$]|{_OTHER_CHARACTERS}"
# Python's `$` also matches before a last newline.
OPERATOR_ID_PATTERN = rf"^(?!\.{{1,2}}$)(?:{_SCHEMA_CHARACTERS})+$(?!\n)"
OPERATOR_ID_IN_WORDS = "a non-empty id that a URI can hold unescaped, without `/` and `,`"
OPERATOR_ID_SCHEMA = {
    "pattern": OPERATOR_ID_PATTERN,
    "minLength": 1,
    "maxLength": OPERATOR_ID_MAX_LENGTH,
}
_SCHEMA_NAME = rf"(?!\.{{1,2}},)(?:{_SCHEMA_CHARACTERS.replace('_', '', 1)})+"
GLOBAL_PORT_ID_SCHEMA = {
    "pattern": rf"^\(logicalOpId={_SCHEMA_NAME},layerName={_SCHEMA_NAME},"
    r"portId=(?:0|[1-9][0-9]{0,8}),isInternal=(?:true|false),isInput=(?:true|false)\)$",
    "maxLength": GLOBAL_PORT_ID_MAX_LENGTH,
}

# Texera reads more than it writes: rows of earlier releases have `_` in their ids, and Scala
# parses booleans in any case.
_STORED_PORT_ID = re.compile(
    r"\(logicalOpId=([^,]+),layerName=([^,]+),"
    r"portId=([0-9]{1,10}),isInternal=((?i:true|false)),isInput=((?i:true|false))\)"
)

_FEEDING_LAYERS = ("local", "partial", "build")
"""Prefixes of the layers that feed another layer of their operator: localAgg, build."""


@dataclass(frozen=True, slots=True)
class GlobalPortId:
    """A port of a physical operator, as Texera writes it:

    `(logicalOpId=A,layerName=B,portId=N,isInternal=true|false,isInput=true|false)`.
    """

    operator_id: str
    layer: str
    port_id: int
    internal: bool
    input: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, naming what was expected, for an id that Texera cannot serialize."""
        if len(text) > GLOBAL_PORT_ID_MAX_LENGTH:
            raise ValueError(f"at most {GLOBAL_PORT_ID_MAX_LENGTH} characters")
        match = _GLOBAL_PORT_ID.fullmatch(text)
        if match is None or not _LEGAL_IN_URI.fullmatch(text):
            raise ValueError(
                "(logicalOpId=A,layerName=B,portId=N,isInternal=true|false,isInput=true|false)"
                " with ids that a URI can hold unescaped, without `_`, `/` and `,`"
            )
        operator_id, layer, port_id, internal, is_input = match.groups()
        if operator_id in _DOT_SEGMENTS or layer in _DOT_SEGMENTS:
            raise ValueError("ids that are no dot segments")
        if int(port_id) > PORT_NUMBER_MAX:
            raise ValueError(f"a portId of at most {PORT_NUMBER_MAX}")
        return cls(operator_id, layer, int(port_id), internal == "true", is_input == "true")

    @classmethod
    def parse_lenient(cls, text: str) -> Self | None:
        """The port that Texera reads from a stored id; None for an id that it cannot read."""
        match = _STORED_PORT_ID.fullmatch(text)
        if match is None or int(match[3]) > PORT_NUMBER_MAX:
            return None
        operator_id, layer, port_id, internal, is_input = match.groups()
        flags = internal.lower() == "true", is_input.lower() == "true"
        return cls(operator_id, layer, int(port_id), *flags)

    def __str__(self) -> str:
        flags = f"isInternal={str(self.internal).lower()},isInput={str(self.input).lower()}"
        return (
            f"(logicalOpId={self.operator_id},layerName={self.layer},portId={self.port_id},{flags})"
        )


def matches_external_port(
    global_port_id: str, operator_id: str, port_id: int, internal: bool
) -> bool:
    """Texera's lookup by logical port: ignores layer and isInput; no unreadable id matches."""
    port = GlobalPortId.parse_lenient(global_port_id)
    return port is not None and (port.operator_id, port.port_id, port.internal) == (
        operator_id,
        port_id,
        internal,
    )


def resolve_output_port(
    stored: Iterable[str], operator_id: str, port_id: int, internal: bool
) -> str | None:
    """The stored id of a logical port; None if there is none.

    Where several layers match, Texera takes the first row of an unordered query. This order is
    total, and prefers what the operator passes on: an output to a stored input, a layer that
    feeds no other to one that does (globalAgg to localAgg, probe to build), then the greatest
    text (ADR 0011).
    """
    prefix = port_prefix(operator_id)
    matching = [
        text
        for text in stored
        if text.startswith(prefix) and matches_external_port(text, operator_id, port_id, internal)
    ]
    return max(matching, key=_output_rank, default=None)


def port_prefix(operator_id: str) -> str:
    """The prefix of every stored id of the operator."""
    return f"(logicalOpId={operator_id},layerName="


def _output_rank(text: str) -> tuple[bool, bool, str]:
    port = GlobalPortId.parse_lenient(text)
    if port is None:  # pragma: no cover (only ids that match are compared)
        return False, False, text
    return not port.input, not port.layer.lower().startswith(_FEEDING_LAYERS), text


def check_operator_id(text: str) -> None:
    """Raises ValueError, naming what was expected, for an id that no console URI can hold."""
    if len(text) > OPERATOR_ID_MAX_LENGTH:
        raise ValueError(f"at most {OPERATOR_ID_MAX_LENGTH} characters")
    if "," in text or not _LEGAL_IN_URI.fullmatch(text):
        raise ValueError(OPERATOR_ID_IN_WORDS)
    if text in _DOT_SEGMENTS:
        raise ValueError("an id that is no dot segment")


@dataclass(frozen=True, slots=True)
class UriMinter:
    """Mints the URIs of one execution. `warehouse` is the name of its warehouse, or None."""

    workflow_id: int
    execution_id: int
    warehouse: str | None = None

    @property
    def _prefix(self) -> str:
        warehouse = f"/wh/{self.warehouse}" if self.warehouse is not None else ""
        return f"vfs://{warehouse}/wid/{self.workflow_id}/eid/{self.execution_id}"

    def result_uri(self, global_port_id: str) -> str:
        return f"{self._prefix}/globalportid/{global_port_id}/result"

    def console_uri(self, operator_id: str) -> str:
        return f"{self._prefix}/opid/{operator_id}/consolemessages"

    def runtime_stats_uri(self) -> str:
        return f"{self._prefix}/runtimestatistics"


def is_same_uri(uri: str, minted: str) -> bool:
    """Whether `uri` is the minted text; the case of its last segment may differ.

    ASCII case only: some letters of other alphabets become ASCII when lowered (U+212A).
    """
    head, slash, kind = uri.rpartition("/")
    return kind.isascii() and head + slash + kind.lower() == minted
