"""Field types of requests: Texera's ids, texts, statuses and URIs, with the limits it stores.

OpenAPI's examples are here too: one value per type, all of one sample execution.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta

from kit.texera.statuses import STATUS_LIST_SCHEMA, TRANSIENT_CODE, Status
from kit.texera.uris import (
    GLOBAL_PORT_ID_SCHEMA,
    OPERATOR_ID_MAX_LENGTH,
    OPERATOR_ID_PATTERN,
    OPERATOR_ID_SCHEMA,
    PORT_NUMBER_MAX,
    UNPRINTABLE,
    GlobalPortId,
    UriMinter,
)

INT32_MAX = 2**31 - 1  # Texera's ids are Postgres INT
INT64_MAX = 2**63 - 1  # sizes are BIGINT

_EXECUTION = UriMinter(workflow_id=101, execution_id=1001)
_PORT = str(GlobalPortId("op-1", "main", 0, internal=False, input=False))

Id: TypeAlias = Annotated[int, Meta(ge=1, le=INT32_MAX, description="an id, a Postgres INT")]
ExecutionId: TypeAlias = Annotated[Id, Meta(examples=[_EXECUTION.execution_id])]
WorkflowId: TypeAlias = Annotated[Id, Meta(examples=[_EXECUTION.workflow_id])]
ComputingUnitId: TypeAlias = Annotated[Id, Meta(examples=[201])]
SelectedIds: TypeAlias = Annotated[list[ExecutionId], Meta(min_length=1, max_length=1000)]

ByteCount: TypeAlias = Annotated[int, Meta(ge=0, le=INT64_MAX, description="a size in bytes")]
TtlSeconds: TypeAlias = Annotated[
    int, Meta(ge=0, le=10 * 366 * 86_400, description="since the last update", examples=[86_400])
]
# Postgres text cannot hold U+0000; refusing it here keeps an acknowledged write storable.
Text: TypeAlias = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
# For texts that lists, logs and terminals show. Python's `$` also matches before a last newline.
PRINTABLE_PATTERN = rf"^[^{UNPRINTABLE}]*$(?!\n)"
Name: TypeAlias = Annotated[str, Meta(pattern=PRINTABLE_PATTERN, max_length=128)]
BootId: TypeAlias = Annotated[
    Name,
    Meta(min_length=1, description="names one start of a master process", examples=["boot-2"]),
]

# Names are looked up without regard to case, so the enum informs callers and does not validate.
StatusName: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": [*Status]})]
StatusCode: TypeAlias = Annotated[int, Meta(ge=TRANSIENT_CODE, le=5)]
StatusValue: TypeAlias = Annotated[
    StatusName | StatusCode, Meta(description="a name, or Texera's code")
]
StatusList: TypeAlias = Annotated[str, Meta(extra_json_schema=STATUS_LIST_SCHEMA)]

# These two inform callers as well: `kit.texera.uris` validates, and says in words what is wrong.
OperatorId: TypeAlias = Annotated[
    str, Meta(extra_json_schema={**OPERATOR_ID_SCHEMA, "examples": ["op-1"]})
]
# Of an operator whose result is asked for: the type itself refuses what no URI could hold.
ExportedOperatorId: TypeAlias = Annotated[
    str,
    Meta(
        pattern=OPERATOR_ID_PATTERN,
        min_length=1,
        max_length=OPERATOR_ID_MAX_LENGTH,
        examples=["op-1"],
    ),
]
PortId: TypeAlias = Annotated[
    str, Meta(extra_json_schema={**GLOBAL_PORT_ID_SCHEMA, "examples": [_PORT]})
]
PortNumber: TypeAlias = Annotated[int, Meta(ge=0, le=PORT_NUMBER_MAX)]
StoredResultUri: TypeAlias = Annotated[Text, Meta(examples=[_EXECUTION.result_uri(_PORT)])]
StoredConsoleUri: TypeAlias = Annotated[Text, Meta(examples=[_EXECUTION.console_uri("op-1")])]
StoredStatsUri: TypeAlias = Annotated[Text, Meta(examples=[_EXECUTION.runtime_stats_uri()])]


def is_valid_pg_text(text: str) -> bool:
    """Whether Postgres can hold the text: no U+0000, no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text
