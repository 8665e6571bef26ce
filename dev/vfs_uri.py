"""The URIs of a run's results, exactly as Texera mints them.

`vfs://` with an empty authority, then workflow, execution and resource. The text of a global port
id has a fixed order and no spaces; Texera compares it as text, so every character matters.
"""

from collections.abc import Mapping

OPERATOR_ID_MAX_LENGTH = 100
"""Width of the column `operator_executions.operator_id`."""

GLOBAL_PORT_ID_MAX_LENGTH = 200
"""Width of the column `operator_port_executions.global_port_id`."""

_SEPARATORS_IN_A_RESULT = {
    "_": "the name of a result's table uses it as a separator",
    "/": "it separates the parts of a URI",
    ",": "a global port id with it can be written but never read back",
}
_SEPARATORS_IN_A_CONSOLE = {"/": "it separates the parts of a URI"}
_ILLEGAL_IN_A_URI = ' "<>{}|\\^`%?#'


def global_port_id(operator_id: str, port: int) -> str:
    """The text of an operator's external output port."""
    return (
        f"(logicalOpId={operator_id},layerName=main,portId={port},isInternal=false,isInput=false)"
    )


def result_uri(workflow_id: int, execution_id: int, port: str) -> str:
    """The URI of the rows of the port with this global port id."""
    return f"vfs:///wid/{workflow_id}/eid/{execution_id}/globalportid/{port}/result"


def console_uri(workflow_id: int, execution_id: int, operator_id: str) -> str:
    """The URI of an operator's console messages."""
    return f"vfs:///wid/{workflow_id}/eid/{execution_id}/opid/{operator_id}/consolemessages"


def runtime_stats_uri(workflow_id: int, execution_id: int) -> str:
    """The URI of a run's statistics."""
    return f"vfs:///wid/{workflow_id}/eid/{execution_id}/runtimestatistics"


def why_no_result_uri(operator_id: str, port: int) -> str | None:
    """Why the port's rows can have no URI; None if they can."""
    if len(global_port_id(operator_id, port)) > GLOBAL_PORT_ID_MAX_LENGTH:
        return f"makes a global port id longer than {GLOBAL_PORT_ID_MAX_LENGTH} characters"
    return _why_not_in_a_uri(operator_id, _SEPARATORS_IN_A_RESULT)


def why_no_console_uri(operator_id: str) -> str | None:
    """Why the operator's console messages can have no URI; None if they can."""
    if len(operator_id) > OPERATOR_ID_MAX_LENGTH:
        return f"is longer than {OPERATOR_ID_MAX_LENGTH} characters"
    return _why_not_in_a_uri(operator_id, _SEPARATORS_IN_A_CONSOLE)


def _why_not_in_a_uri(operator_id: str, separators: Mapping[str, str]) -> str | None:
    for character in operator_id:
        if character in separators:
            return f"contains {character!r}: {separators[character]}"
        if character in _ILLEGAL_IN_A_URI or not character.isprintable():
            return f"contains {character!r}, which no URI may"
    return None
