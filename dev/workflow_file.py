"""Reads a workflow as Texera's editor saves it.

Only `operators`, their output ports and `links` are read; the editor's other data (positions,
comment boxes, settings) is ignored. Keys that older editors did not write have defaults. A workflow
that could not run is a `WorkflowFileError` whose text names the operator or link and the reason.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from dev.problems import DevProblem
from dev.vfs_uri import global_port_id, why_no_console_uri, why_no_result_uri

_OUTPUT_PORT = re.compile(r"output-(\d{1,9})")


class WorkflowFileError(DevProblem):
    """The file is not a workflow that can run."""


@dataclass(frozen=True)
class Operator:
    """One enabled operator."""

    id: str
    type: str
    properties: Mapping[str, Any] = field(hash=False)
    output_ports: tuple[int, ...]
    view_result: bool
    display_name: str

    @property
    def is_python(self) -> bool:
        """Whether it runs its author's Python code, and so can print to a console."""
        return "Python" in self.type

    @property
    def code(self) -> str:
        """The author's code, empty if there is none."""
        code = self.properties.get("code")
        return code if isinstance(code, str) else ""


@dataclass(frozen=True)
class Link:
    """Rows flow from one operator's output port to another operator."""

    source: str
    source_port: int
    target: str


@dataclass(frozen=True)
class StoragePort:
    """An output port whose rows are kept after the run."""

    operator: Operator
    port: int

    @property
    def global_port_id(self) -> str:
        """Texera's text for this port."""
        return global_port_id(self.operator.id, self.port)


@dataclass(frozen=True)
class Workflow:
    """The enabled part of a workflow: operators in topological order, and the links between."""

    operators: tuple[Operator, ...]
    links: tuple[Link, ...]

    def inputs_of(self, operator: Operator) -> list[Operator]:
        """The operators that feed this one, in topological order, each once."""
        sources = {link.source for link in self.links if link.target == operator.id}
        return [candidate for candidate in self.operators if candidate.id in sources]

    @property
    def final_operators(self) -> list[Operator]:
        """Operators without consumers."""
        feeding = {link.source for link in self.links}
        return [operator for operator in self.operators if operator.id not in feeding]

    @property
    def storage_ports(self) -> list[StoragePort]:
        """Every output port of a final operator and of one marked to be viewed."""
        final = {operator.id for operator in self.final_operators}
        return [
            StoragePort(operator, port)
            for operator in self.operators
            if operator.view_result or operator.id in final
            for port in operator.output_ports
        ]

    @property
    def python_operators(self) -> list[Operator]:
        """Operators that run their author's Python code."""
        return [operator for operator in self.operators if operator.is_python]


def read_workflow(path: Path) -> Workflow:
    """Read and check a file. The text of a `WorkflowFileError` starts with the file's path."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise WorkflowFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise WorkflowFileError(f"{path}: is not UTF-8 text") from error
    try:
        return parse_workflow(text)
    except WorkflowFileError as error:
        raise WorkflowFileError(f"{path}: {error}") from error


def parse_workflow(text: str) -> Workflow:
    """The enabled operators and links of a workflow file's text."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise WorkflowFileError(f"is not JSON: {error}") from error
    except RecursionError as error:
        raise WorkflowFileError("is nested too deeply") from error
    if not isinstance(document, dict) or "operators" not in document:
        raise WorkflowFileError("is not a workflow: it has no list called operators")
    links = _read_links(_items(document, "links", "the file"))
    operators, disabled = _read_operators(_items(document, "operators", "the file"), links)
    known = set(operators) | disabled
    for link in links:
        for end in (link.source, link.target):
            if end not in known:
                raise WorkflowFileError(f"a link names the operator {end!r}, which does not exist")
    enabled_links = tuple(
        link for link in links if link.source in operators and link.target in operators
    )
    _check_link_ports(operators, enabled_links)
    workflow = Workflow(_in_topological_order(operators, enabled_links), enabled_links)
    _check_uris(workflow)
    return workflow


def _read_operators(
    items: Iterable[Mapping[str, Any]], links: Iterable[Link]
) -> tuple[dict[str, Operator], set[str]]:
    """The enabled operators by id, in the file's order, and the ids of the disabled ones."""
    enabled: dict[str, Operator] = {}
    disabled: set[str] = set()
    for number, item in enumerate(items, start=1):
        where = f"operator number {number}"
        operator_id = _text(item, "operatorID", where)
        if operator_id in enabled or operator_id in disabled:
            raise WorkflowFileError(f"two operators have the id {operator_id!r}")
        if item.get("isDisabled") is True:
            disabled.add(operator_id)
            continue
        properties = item.get("operatorProperties")
        display_name = item.get("customDisplayName")
        operator_type = _text(item, "operatorType", f"operator {operator_id!r}")
        enabled[operator_id] = Operator(
            id=operator_id,
            type=operator_type,
            properties=properties if isinstance(properties, dict) else {},
            output_ports=_read_output_ports(item, operator_id, links),
            view_result=item.get("viewResult") is True,
            display_name=display_name if isinstance(display_name, str) else operator_type,
        )
    if not enabled:
        raise WorkflowFileError("has no enabled operator, so there is nothing to run")
    return enabled, disabled


def _read_output_ports(
    item: Mapping[str, Any], operator_id: str, links: Iterable[Link]
) -> tuple[int, ...]:
    """An operator's output ports; where the file lists none, those its links start from."""
    where = f"operator {operator_id!r}"
    if item.get("outputPorts") is None:
        return tuple(sorted({link.source_port for link in links if link.source == operator_id}))
    ports = [
        _port_number(_text(port, "portID", f"an output port of {where}"), where)
        for port in _items(item, "outputPorts", where)
    ]
    if len(set(ports)) < len(ports):
        raise WorkflowFileError(f"{where} has two output ports of the same name")
    return tuple(ports)


def _read_links(items: Iterable[Mapping[str, Any]]) -> list[Link]:
    links = []
    for number, item in enumerate(items, start=1):
        where = f"link number {number}"
        source, target = item.get("source"), item.get("target")
        if not isinstance(source, dict) or not isinstance(target, dict):
            raise WorkflowFileError(f"{where} needs a source and a target")
        links.append(
            Link(
                source=_text(source, "operatorID", f"the source of {where}"),
                source_port=_port_number(source.get("portID", "output-0"), where),
                target=_text(target, "operatorID", f"the target of {where}"),
            )
        )
    return links


def _check_link_ports(operators: Mapping[str, Operator], links: Iterable[Link]) -> None:
    for link in links:
        if link.source_port not in operators[link.source].output_ports:
            raise WorkflowFileError(
                f"a link starts at output-{link.source_port} of operator {link.source!r}, "
                "which has no such port"
            )


def _in_topological_order(
    operators: Mapping[str, Operator], links: Iterable[Link]
) -> tuple[Operator, ...]:
    """Sources first; otherwise in the file's order, so that one file always gives one plan."""
    predecessors: dict[str, list[str]] = {operator_id: [] for operator_id in operators}
    for link in links:
        predecessors[link.target].append(link.source)
    try:
        order = TopologicalSorter(predecessors).static_order()
        return tuple(operators[operator_id] for operator_id in order)
    except CycleError as error:
        ring = " -> ".join(error.args[1])
        raise WorkflowFileError(f"its links form a cycle: {ring}") from error


def _check_uris(workflow: Workflow) -> None:
    """Refuse ids that Texera cannot mint a URI for: they would fail the run later."""
    faults = [
        (stored.operator, why_no_result_uri(stored.operator.id, stored.port))
        for stored in workflow.storage_ports
    ] + [(operator, why_no_console_uri(operator.id)) for operator in workflow.python_operators]
    for operator, fault in faults:
        if fault is not None:
            raise WorkflowFileError(f"the id of operator {operator.id!r} {fault}")


def _items(parent: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    items = parent.get(key)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise WorkflowFileError(f"{key} of {where} is not a list of objects")
    return items


def _text(parent: Mapping[str, Any], key: str, where: str) -> str:
    value = parent.get(key)
    if not isinstance(value, str) or not value:
        raise WorkflowFileError(f"{where} has no {key}")
    return value


def _port_number(name: Any, where: str) -> int:
    match = _OUTPUT_PORT.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise WorkflowFileError(f"{where} has an output port called {name!r}, not output-N")
    return int(match[1])
