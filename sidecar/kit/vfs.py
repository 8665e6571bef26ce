"""The identifiers Texera stores: global port ids, operator ids and VFS URIs (TEXERA.md section 7).

A stored URI is dangerous: Texera's clean-up drops whatever table it names. So a URI is not
parsed and judged, it is compared: there is exactly one text that Texera mints for a given
execution, port or operator, and only that text fits the row. Percent-encoding, doubled or
dot segments, another authority, a query: none of them can equal it. The one freedom kept is
the case of the last segment, which Texera reads case-insensitively.
"""

import re
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

    def __str__(self) -> str:
        flags = f"isInternal={str(self.internal).lower()},isInput={str(self.input).lower()}"
        return (
            f"(logicalOpId={self.operator_id},layerName={self.layer},portId={self.port_id},{flags})"
        )


def matches_external_port(
    global_port_id: str, operator_id: str, port_id: int, internal: bool
) -> bool:
    """Texera's look-up by logical port: layer and isInput are ignored, a stray id never matches."""
    try:
        port = GlobalPortId.parse(global_port_id)
    except ValueError:
        return False
    return (port.operator_id, port.port_id, port.internal) == (operator_id, port_id, internal)


def check_operator_id(text: str) -> None:
    """Raises ValueError, saying what was expected, for an id no console URI could hold."""
    if len(text) > OPERATOR_ID_MAX_LENGTH:
        raise ValueError(f"at most {OPERATOR_ID_MAX_LENGTH} characters")
    if "," in text or not _LEGAL_IN_URI.fullmatch(text):
        raise ValueError("a non-empty id that a URI can hold, without `/` and `,`")


@dataclass(frozen=True, slots=True)
class UriOwner:
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
    """Whether `uri` is the minted text, the case of its last segment aside."""
    head, slash, kind = uri.rpartition("/")
    return head + slash + kind.lower() == minted
