"""Which of central's problems each call passes on as they are, for the API's document.

A call that asks central can be answered with whatever central answers; a durable write with
what central says when it binds the execution and, to a caller who waits, of the write itself.
"""

from collections.abc import Mapping

_STATUSES = {
    "token-invalid": 401,
    "token-expired": 401,
    "assertion-invalid": 401,
    "workload-invalid": 401,
    "workload-missing": 401,
    "role-not-allowed": 403,
    "user-demoted": 403,
    "wrong-computing-unit": 403,
    "workflow-forbidden": 403,
    "computing-unit-forbidden": 403,
    "not-the-executions-user": 403,
    "not-bound": 403,
    "binding-revoked": 403,
    "workflow-not-found": 404,
    "computing-unit-not-found": 404,
    "warehouse-not-found": 404,
    "execution-not-found": 404,
    "no-execution": 404,
    "no-completed-run": 404,
    "no-version": 404,
    "result-uri-not-found": 404,
    "console-not-found": 404,
    "port-result-not-found": 404,
    "boot-superseded": 409,
    "bound-elsewhere": 409,
    "computing-unit-terminated": 409,
    "execution-not-ended": 409,
    "late": 409,
    "status-conflict": 409,
    "uri-conflict": 409,
    "workflow-unreadable": 409,
    "idempotency-key-reused": 422,
    "uri-mismatch": 422,
    "value-out-of-range": 422,
    "warehouse-unsupported": 422,
    "rate-limited": 429,
}
_ANY = (
    "token-invalid",
    "token-expired",
    "assertion-invalid",
    "role-not-allowed",
    "user-demoted",
    "rate-limited",
)
_SIGNED = (*_ANY, "workload-invalid", "workload-missing", "wrong-computing-unit")
_KEYED = (*_SIGNED, "idempotency-key-reused")
_BINDING = (
    *_KEYED,
    "execution-not-found",
    "not-the-executions-user",
    "boot-superseded",
    "bound-elsewhere",
)
_WRITE = (*_BINDING, "not-bound", "binding-revoked", "value-out-of-range")
_URI = (*_WRITE, "uri-mismatch", "uri-conflict")
_CREATE = (
    *_KEYED,
    "workflow-not-found",
    "workflow-forbidden",
    "computing-unit-not-found",
    "computing-unit-forbidden",
    "computing-unit-terminated",
    "boot-superseded",
    "warehouse-not-found",
    "warehouse-unsupported",
)
_SELECTION = (*_KEYED, "workflow-not-found", "execution-not-found", "not-the-executions-user")
_UNIT = ("computing-unit-not-found", "computing-unit-forbidden")

_EXECUTION = "/v1/executions/{execution_id}"
_PORT = _EXECUTION + "/ports/{global_port_id}"
_CONSOLE = _EXECUTION + "/operators/{operator_id}/console"
_WORKFLOW = "/v1/workflows/{workflow_id}"
_EXPIRED = "/v1/computing-units/{computing_unit_id}/expired-executions"
_DROP_IN = "/api/internal/execution-metadata"

_SLUGS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("POST", "/v1/executions"): _CREATE,
    ("GET", _EXECUTION): (*_ANY, "execution-not-found"),
    ("PATCH", _EXECUTION): (*_WRITE, "uri-mismatch", "late", "status-conflict"),
    ("GET", _WORKFLOW + "/executions/latest"): (*_ANY, "workflow-not-found", "no-execution"),
    ("GET", _WORKFLOW + "/executions"): (*_ANY, "workflow-not-found"),
    ("PUT", _PORT): _URI,
    ("PATCH", _PORT): (*_WRITE, "port-result-not-found"),
    ("PUT", _CONSOLE): _URI,
    ("PATCH", _CONSOLE): (*_WRITE, "console-not-found"),
    ("GET", _CONSOLE): (*_ANY, "execution-not-found", "console-not-found"),
    ("GET", _EXECUTION + "/result-uri"): (*_ANY, "execution-not-found", "result-uri-not-found"),
    ("GET", _EXECUTION + "/uris"): (*_ANY, "execution-not-found"),
    ("DELETE", _EXECUTION + "/uris"): _WRITE,
    ("PUT", _EXECUTION + "/operator-costs"): _WRITE,
    ("GET", _WORKFLOW + "/operator-costs"): (*_ANY, "workflow-not-found", "no-completed-run"),
    ("GET", _WORKFLOW + "/versions/latest"): (*_ANY, "workflow-not-found", "no-version"),
    ("GET", _WORKFLOW + "/executions/{execution_id}"): (*_ANY, "execution-not-found"),
    ("POST", _WORKFLOW + "/export-plan"): (
        *_ANY,
        "workflow-not-found",
        "computing-unit-not-found",
        "workflow-unreadable",
    ),
    ("POST", "/v1/executions/delete"): _SELECTION,
    ("POST", "/v1/executions/bookmark"): _SELECTION,
    ("POST", "/v1/computing-units/{computing_unit_id}/boots"): (
        *_KEYED,
        *_UNIT,
        "boot-superseded",
    ),
    ("GET", _EXPIRED): (*_ANY, *_UNIT),
    ("POST", _EXPIRED + "/clear"): (*_KEYED, *_UNIT, "execution-not-found", "execution-not-ended"),
    ("GET", "/v1/writes/{write_id}"): _ANY,
    ("GET", "/v1/writes"): _ANY,
    ("POST", "/v1/flush"): _ANY,
    ("POST", _DROP_IN + "/create"): _CREATE,
    ("GET", _DROP_IN + "/latest"): (*_ANY, "workflow-not-found", "no-execution"),
    ("PUT", _DROP_IN + "/{eid}/runtime-stats-uri"): _BINDING,
    ("PUT", _DROP_IN + "/{eid}/status"): _BINDING,
    ("POST", _DROP_IN + "/{eid}/operator-console"): _BINDING,
    ("POST", _DROP_IN + "/{eid}/port-result"): _BINDING,
    ("GET", _DROP_IN + "/{eid}/port-result"): (
        *_ANY,
        "execution-not-found",
        "result-uri-not-found",
    ),
    ("GET", _DROP_IN + "/{eid}/port-results"): (*_ANY, "execution-not-found"),
}

RELAYED: Mapping[tuple[str, str], Mapping[str, int]] = {
    call: {slug: _STATUSES[slug] for slug in slugs} for call, slugs in _SLUGS.items()
}
"""By method and path: the slug and status of each problem that may be passed on."""
