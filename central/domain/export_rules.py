"""Export rules: which results may be exported, and the names of the files. Pure functions.

Texera has three rules. The caller reads the workflow, and sees the computing
unit: both are checked where the rows are read. A dataset of another user that may not be downloaded
blocks the operators that read it and all operators downstream, along the links of the stored
workflow. An operator that is no longer part of the workflow is not blocked, as in Texera.
"""

from collections import defaultdict, deque
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec

from kit.texera.fields import ComputingUnitId, PortNumber

OutputType = Annotated[str, msgspec.Meta(pattern=r"^[^\x00/\\]+$", max_length=32)]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$", max_length=1024)]

EXTENSIONS: Mapping[str, str] = {"parquet": "zip"}  # an archive of the table's data files
"""Extensions that differ from the output type."""


class ExportedOperator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, msgspec.Meta(pattern=r"^[^\x00]+$", max_length=200)]
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


def datasets_by_operator(content: Any) -> dict[str, DatasetName]:
    """The dataset that each operator of a decoded `workflow.content` reads."""
    datasets = {}
    for operator in _objects(content, "operators"):
        operator_id = operator.get("operatorID")
        properties = operator.get("operatorProperties")
        file_name = properties.get("fileName") if isinstance(properties, dict) else None
        if isinstance(operator_id, str) and isinstance(file_name, str):
            dataset = dataset_of_path(file_name)
            if dataset is not None:
                datasets[operator_id] = dataset
    return datasets


def dataset_of_path(path: str) -> DatasetName | None:
    """The dataset of `/<owner's e-mail>/<dataset>/...`, since August 2026 below `/datasets`."""
    segments = [segment for segment in path.split("/") if segment]
    if segments and segments[0] == "datasets":
        segments = segments[1:]
    return DatasetName(segments[0], segments[1]) if len(segments) >= 2 else None


def blocked_operators(
    content: Any, datasets: Mapping[str, DatasetName], restricted: Mapping[DatasetName, DatasetName]
) -> dict[str, list[str]]:
    """The operators that may not be exported, each with the labels of the blocking datasets.

    `restricted` maps the names in the workflow to the datasets that may not be downloaded.
    """
    labels = {named: str(dataset) for named, dataset in restricted.items()}
    feeds: defaultdict[str, set[str]] = defaultdict(set)
    for link in _objects(content, "links"):
        source, target = _operator_of(link.get("source")), _operator_of(link.get("target"))
        if source is not None and target is not None:
            feeds[source].add(target)
    blocked: defaultdict[str, set[str]] = defaultdict(set)
    queue = deque(
        (operator, labels[dataset]) for operator, dataset in datasets.items() if dataset in labels
    )
    while queue:
        operator, label = queue.popleft()
        if label not in blocked[operator]:  # each pair once, so that a cycle terminates
            blocked[operator].add(label)
            queue.extend((target, label) for target in feeds[operator])
    return {operator: sorted(found) for operator, found in blocked.items()}


def export_file_name(
    workflow_name: str, operator: ExportedOperator, version_id: int | None, now: datetime
) -> str:
    """Texera's default file name. `now` is UTC, like the clocks of its images."""
    extension = EXTENSIONS.get(operator.output_type, operator.output_type)
    stamp = now.strftime("%Y-%m-%d_%H-%M-%S")
    name = f"{workflow_name}-op{operator.id}-v{version_id or 0}-{stamp}.{extension}"
    return name.replace("/", "").replace("\\", "")


def _objects(content: Any, name: str) -> list[dict[str, Any]]:
    members = content.get(name) if isinstance(content, dict) else None
    return [m for m in members if isinstance(m, dict)] if isinstance(members, list) else []


def _operator_of(end: Any) -> str | None:
    operator = end.get("operatorID") if isinstance(end, dict) else None
    return operator if isinstance(operator, str) else None
