"""Export rules: which results may be exported, and the names of the files. Pure functions.

Texera has three rules. The caller reads the workflow, and sees the computing
unit: both are checked where the rows are read. A dataset of another user that may not be downloaded
blocks the operators that read it and all operators downstream, along the links of the stored
workflow. An operator that is no longer part of the workflow is not blocked, as in Texera.
"""

from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from kit.texera.fields import ComputingUnitId, ExportedOperatorId, PortNumber

OutputType = Annotated[str, msgspec.Meta(pattern=r"^[^\x00/\\]+$", max_length=32)]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$", max_length=1024)]

EXTENSIONS: Mapping[str, str] = {"parquet": "zip"}  # an archive of the table's data files
"""Extensions that differ from the output type."""


class ExportedOperator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: ExportedOperatorId
    output_type: Annotated[
        OutputType, msgspec.Meta(description="csv, arrow, html, data, parquet; others mean csv")
    ]
    port_id: PortNumber = 0


class ExportRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Results of a workflow's latest execution on one computing unit."""

    computing_unit_id: ComputingUnitId
    operators: Annotated[list[ExportedOperator], msgspec.Meta(min_length=1, max_length=1000)]
    file_name: FileName | None = None


class PlannedOperator(msgspec.Struct, frozen=True):
    """`uri` is null if there is no result or the operator is blocked."""

    id: str
    uri: str | None
    file_name: str
    blocked: bool
    blocked_by: list[str]


class ExportPlan(msgspec.Struct, frozen=True):
    """Ids are null if the workflow has not run on the unit, or has no version."""

    execution_id: int | None
    version_id: int | None
    operators: list[PlannedOperator]


class DatasetName(msgspec.Struct, frozen=True, order=True):
    """A dataset as a path names it. The database compares both parts case-insensitively."""

    owner_email: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.owner_email})"


MAX_LENIENT_LENGTH = 256 * 1024

T = TypeVar("T")
Links: TypeAlias = Mapping[str, set[str]]


class _Properties(msgspec.Struct):
    file_name: msgspec.Raw = msgspec.field(name="fileName", default=msgspec.Raw(b"null"))


class _Operator(msgspec.Struct):
    operator_id: str | None = msgspec.field(name="operatorID", default=None)
    properties: _Properties | None = msgspec.field(name="operatorProperties", default=None)


class _Link(msgspec.Struct):
    source: _Operator | None = None
    target: _Operator | None = None


class Workflow(msgspec.Struct):
    """What the rules need of a `workflow.content`; all else is skipped, because it may be large."""

    operators: list[_Operator] | None = None
    links: list[_Link] | None = None


def parse_workflow(content: str | None) -> Workflow:
    """Raises `msgspec.DecodeError` or RecursionError.

    Whatever is no operator or no link is ignored, as in Texera, but only in a small workflow: to
    find it, all of the content is decoded.
    """
    try:
        return _WORKFLOW.decode(content) if content else Workflow()
    except msgspec.ValidationError:
        if content is None or len(content) > MAX_LENIENT_LENGTH:
            raise
        value = msgspec.json.decode(content)
        return Workflow(_members(value, "operators", _Operator), _members(value, "links", _Link))


def datasets_by_operator(workflow: Workflow) -> dict[str, DatasetName]:
    """The dataset that each operator reads."""
    datasets = {}
    for operator in workflow.operators or ():
        if operator.operator_id is None or operator.properties is None:
            continue
        with suppress(msgspec.DecodeError):  # it is no text
            path = msgspec.json.decode(operator.properties.file_name, type=str)
            dataset = dataset_of_path(path)
            if dataset is not None:
                datasets[operator.operator_id] = dataset
    return datasets


def dataset_of_path(path: str) -> DatasetName | None:
    """The dataset of `/<owner's e-mail>/<dataset>/...`, since August 2026 below `/datasets`."""
    segments = [segment for segment in path.split("/") if segment]
    if segments and segments[0] == "datasets":
        segments = segments[1:]
    return DatasetName(segments[0], segments[1]) if len(segments) >= 2 else None


def links_of(workflow: Workflow) -> Links:
    """The operators that each operator feeds."""
    links: defaultdict[str, set[str]] = defaultdict(set)
    for link in workflow.links or ():
        source, target = _operator_of(link.source), _operator_of(link.target)
        if source is not None and target is not None:
            links[source].add(target)
    return links


def blocked_operators(
    links: Links, datasets: Mapping[str, DatasetName], restricted: Mapping[DatasetName, DatasetName]
) -> dict[str, list[str]]:
    """The operators that may not be exported, each with the labels of the blocking datasets.

    `restricted` maps the names in the workflow to the datasets that may not be downloaded.
    """
    labels = {named: str(dataset) for named, dataset in restricted.items()}
    blocked: defaultdict[str, set[str]] = defaultdict(set)
    queue = deque(
        (operator, labels[dataset]) for operator, dataset in datasets.items() if dataset in labels
    )
    while queue:
        operator, label = queue.popleft()
        if label not in blocked[operator]:  # each pair once, so that a cycle terminates
            blocked[operator].add(label)
            queue.extend((target, label) for target in links.get(operator, ()))
    return {operator: sorted(found) for operator, found in blocked.items()}


def export_file_name(
    workflow_name: str, operator: ExportedOperator, version_id: int | None, now: datetime
) -> str:
    """Texera's default file name. `now` is UTC, like the clocks of its images."""
    extension = EXTENSIONS.get(operator.output_type, operator.output_type)
    stamp = now.strftime("%Y-%m-%d_%H-%M-%S")
    name = f"{workflow_name}-op{operator.id}-v{version_id or 0}-{stamp}.{extension}"
    return name.replace("/", "").replace("\\", "")


def _members(content: Any, name: str, kind: type[T]) -> list[T]:
    found = []
    members = content.get(name) if isinstance(content, dict) else None
    for member in members if isinstance(members, list) else ():
        with suppress(msgspec.ValidationError):
            found.append(msgspec.json.decode(msgspec.json.encode(member), type=kind))
    return found


def _operator_of(end: _Operator | None) -> str | None:
    return None if end is None else end.operator_id


_WORKFLOW = msgspec.json.Decoder(Workflow)
