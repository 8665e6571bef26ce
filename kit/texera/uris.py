"""The identifiers Texera stores: global port ids, operator ids and VFS URIs (TEXERA.md section 7).

A stored URI is dangerous: Texera's clean-up drops whatever table it names. So a URI is not
parsed and judged, it is compared: there is exactly one text that Texera mints for a given
execution, port or operator, and only that text fits the row. Percent-encoding, doubled or
dot segments, another authority, a query: none of them can equal it. The one freedom kept is
the case of the last segment, which Texera reads case-insensitively.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

GLOBAL_PORT_ID_MAX_LENGTH = 200  # operator_port_executions.global_port_id VARCHAR(200)
OPERATOR_ID_MAX_LENGTH = 100  # operator_executions.operator_id VARCHAR(100)
PORT_NUMBER_MAX = 2**31 - 1  # a Scala Int

# What java.net.URI takes in a path: unreserved, escaped, `;/?:@&=+$,` and "other" characters
# (neither ASCII, nor control, nor space). `/`, `?` and `#` are left out: they end the id.
_URI_CHARACTERS = r"(?:[A-Za-z0-9\-_.!~*'();:@&=+$,]|%[0-9A-Fa-f]{2}|[^\x00-\x7f\x80-\x9f\s])"
_LEGAL_IN_URI = re.compile(f"{_URI_CHARACTERS}+")

_GLOBAL_PORT_ID = re.compile(
    r"\(logicalOpId=([^,/_]+),layerName=([^,/_]+),"
    r"portId=(0|[1-9][0-9]{0,9}),isInternal=(true|false),isInput=(true|false)\)"
)

# The same for callers, as OpenAPI has it. An escape is left out, because tools take it for one of
# the request's own; whether a port of ten digits fits, we judge.
_ID_FOR_CALLERS = r"[A-Za-z0-9\-_.!~*'();:@&=+$]|[^\x00-\x7f\x80-\x9f\s]"
OPERATOR_ID_SCHEMA = {
    "pattern": f"^(?:{_ID_FOR_CALLERS})+$",
    "minLength": 1,
    "maxLength": OPERATOR_ID_MAX_LENGTH,
}
_NAME_FOR_CALLERS = f"(?:{_ID_FOR_CALLERS.replace('_', '')})+"
GLOBAL_PORT_ID_SCHEMA = {
    "pattern": rf"^\(logicalOpId={_NAME_FOR_CALLERS},layerName={_NAME_FOR_CALLERS},"
    r"portId=(?:0|[1-9][0-9]{0,8}),isInternal=(?:true|false),isInput=(?:true|false)\)$",
    "maxLength": GLOBAL_PORT_ID_MAX_LENGTH,
}

# What Texera reads back is wider than what it writes: rows of earlier releases have `_` in
# their ids, and Scala takes booleans in any case.
_STORED_PORT_ID = re.compile(
    r"\(logicalOpId=([^,]+),layerName=([^,]+),"
    r"portId=([0-9]{1,10}),isInternal=((?i:true|false)),isInput=((?i:true|false))\)"
)

_FEEDING_LAYERS = ("local", "partial", "build")
"""How Texera's layers are named that feed another layer of their operator: localAgg, build."""


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
        """Raises ValueError, saying what was expected, for what Texera could not serialize."""
        if len(text) > GLOBAL_PORT_ID_MAX_LENGTH:
            raise ValueError(f"at most {GLOBAL_PORT_ID_MAX_LENGTH} characters")
        match = _GLOBAL_PORT_ID.fullmatch(text)
        if match is None or not _LEGAL_IN_URI.fullmatch(text):
            raise ValueError(
                "(logicalOpId=A,layerName=B,portId=N,isInternal=true|false,isInput=true|false)"
                " with ids that a URI can hold, without `_`, `/` and `,`"
            )
        operator_id, layer, port_id, internal, is_input = match.groups()
        if int(port_id) > PORT_NUMBER_MAX:
            raise ValueError(f"a portId of at most {PORT_NUMBER_MAX}")
        return cls(operator_id, layer, int(port_id), internal == "true", is_input == "true")

    @classmethod
    def read(cls, text: str) -> Self | None:
        """What Texera reads from a stored id; None for an id that it cannot read."""
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
    """Texera's look-up by logical port: layer and isInput are ignored, a stray id never matches."""
    port = GlobalPortId.read(global_port_id)
    return port is not None and (port.operator_id, port.port_id, port.internal) == (
        operator_id,
        port_id,
        internal,
    )


def resolve_output_port(
    stored: Iterable[str], operator_id: str, port_id: int, internal: bool
) -> str | None:
    """The stored id that a logical port means; None if there is none.

    Texera takes whichever row comes first where several layers match. Here the answer is
    always the same, and is what the operator gives to others: an output before a stored
    input, a layer that feeds no other before one that does (globalAgg before localAgg, probe
    before build), then the greatest text (ADR 0011).
    """
    prefix = port_prefix(operator_id)
    matching = [
        text
        for text in stored
        if text.startswith(prefix) and matches_external_port(text, operator_id, port_id, internal)
    ]
    return max(matching, key=_terminality, default=None)


def port_prefix(operator_id: str) -> str:
    """How every stored id of the operator begins."""
    return f"(logicalOpId={operator_id},layerName="


def _terminality(text: str) -> tuple[bool, bool, str]:
    port = GlobalPortId.read(text)
    if port is None:  # pragma: no cover (only ids that match are compared)
        return False, False, text
    return not port.input, not port.layer.lower().startswith(_FEEDING_LAYERS), text


def check_operator_id(text: str) -> None:
    """Raises ValueError, saying what was expected, for an id no console URI could hold."""
    if len(text) > OPERATOR_ID_MAX_LENGTH:
        raise ValueError(f"at most {OPERATOR_ID_MAX_LENGTH} characters")
    if "," in text or not _LEGAL_IN_URI.fullmatch(text):
        raise ValueError("a non-empty id that a URI can hold, without `/` and `,`")


@dataclass(frozen=True, slots=True)
class UriMinter:
    """The row a URI must belong to. `warehouse` is the execution's warehouse name, or None."""

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
    """Whether `uri` is the minted text, the case of its last segment aside.

    ASCII case only: other alphabets have letters that become ASCII when lowered (U+212A).
    """
    head, slash, kind = uri.rpartition("/")
    return kind.isascii() and head + slash + kind.lower() == minted
