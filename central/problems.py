"""The problems this service answers with: the slug is the `type`, the docstring the `title`.

`kit.http.problems` has those that any service has (invalid-request, no-such-route, ...).
"""

from kit.http.problems import Problem

# --- who calls


class TokenMissing(Problem):
    """The call needs a user's token."""

    slug = "token-missing"
    status = 401


class TokenInvalid(Problem):
    """The user's token is not one of this deployment."""

    slug = "token-invalid"
    status = 401


class TokenExpired(Problem):
    """The user's token has expired."""

    slug = "token-expired"
    status = 401


class AssertionMissing(Problem):
    """The call needs a sidecar's assertion."""

    slug = "assertion-missing"
    status = 401


class AssertionInvalid(Problem):
    """The sidecar's assertion does not vouch for this call."""

    slug = "assertion-invalid"
    status = 401


class WorkloadMissing(Problem):
    """The call needs the token of the sidecar's pod."""

    slug = "workload-missing"
    status = 401


class WorkloadInvalid(Problem):
    """The workload token does not name a computing unit's pod."""

    slug = "workload-invalid"
    status = 401


# --- what the caller may do


class RoleNotAllowed(Problem):
    """The user's role may not use this service."""

    slug = "role-not-allowed"
    status = 403


class WorkflowForbidden(Problem):
    """The user may see the workflow, not run it."""

    slug = "workflow-forbidden"
    status = 403


class ComputingUnitForbidden(Problem):
    """The user may see the computing unit, not run on it."""

    slug = "computing-unit-forbidden"
    status = 403


class NotTheExecutionsUser(Problem):
    """Only the user who started the execution may do this."""

    slug = "not-the-executions-user"
    status = 403


class NotBound(Problem):
    """The sidecar is not bound to the execution."""

    slug = "not-bound"
    status = 403


class WrongComputingUnit(Problem):
    """The call comes from the pod of another computing unit than the one it is about."""

    slug = "wrong-computing-unit"
    status = 403


class BindingRevoked(Problem):
    """The sidecar's binding to the execution was revoked."""

    slug = "binding-revoked"
    status = 403


class UserDemoted(Problem):
    """The user for whom the sidecar writes is no longer REGULAR or ADMIN."""

    slug = "user-demoted"
    status = 403


# --- what is not there, or not for the caller to know about


class ExecutionNotFound(Problem):
    """There is no such execution that the caller may read."""

    slug = "execution-not-found"
    status = 404


class WorkflowNotFound(Problem):
    """There is no such workflow that the caller may read."""

    slug = "workflow-not-found"
    status = 404


class ComputingUnitNotFound(Problem):
    """There is no such computing unit that the caller may see."""

    slug = "computing-unit-not-found"
    status = 404


class WarehouseNotFound(Problem):
    """The user has no such warehouse."""

    slug = "warehouse-not-found"
    status = 404


class NoExecution(Problem):
    """The workflow has not been executed."""

    slug = "no-execution"
    status = 404


class NoCompletedRun(Problem):
    """No run of the workflow has completed."""

    slug = "no-completed-run"
    status = 404


class NoVersion(Problem):
    """The workflow has no version yet."""

    slug = "no-version"
    status = 404


class ResultUriNotFound(Problem):
    """The port has no stored result."""

    slug = "result-uri-not-found"
    status = 404


class PortResultNotFound(Problem):
    """There is no stored result whose size could be set."""

    slug = "port-result-not-found"
    status = 404


class ConsoleNotFound(Problem):
    """The operator has no stored console messages."""

    slug = "console-not-found"
    status = 404


# --- what does not fit the state things are in


class BoundElsewhere(Problem):
    """Another live sidecar is bound to the execution."""

    slug = "bound-elsewhere"
    status = 409


class BootSuperseded(Problem):
    """The computing unit has had a newer boot since."""

    slug = "boot-superseded"
    status = 409


class ComputingUnitTerminated(Problem):
    """The computing unit has been terminated."""

    slug = "computing-unit-terminated"
    status = 409


class ExecutionNotEnded(Problem):
    """The execution has not ended."""

    slug = "execution-not-ended"
    status = 409


class WorkflowUnreadable(Problem):
    """The stored workflow is not as Texera writes it."""

    slug = "workflow-unreadable"
    status = 409


class Late(Problem):
    """The execution has already ended; a status before the end comes too late."""

    slug = "late"
    status = 409


class StatusConflict(Problem):
    """The execution has already ended otherwise."""

    slug = "status-conflict"
    status = 409


class UriConflict(Problem):
    """Another URI is stored there already."""

    slug = "uri-conflict"
    status = 409


class BatchOutOfStep(Problem):
    """The batch is neither the last one nor the next."""

    slug = "batch-out-of-step"
    status = 409


# --- what cannot be done with what was given


class IdempotencyKeyReused(Problem):
    """The idempotency key was used for another body."""

    slug = "idempotency-key-reused"
    status = 422


class UriMismatch(Problem):
    """The URI does not belong to the row it is for."""

    slug = "uri-mismatch"
    status = 422


class ValueOutOfRange(Problem):
    """The database cannot hold the value."""

    slug = "value-out-of-range"
    status = 422


class UnknownOperation(Problem):
    """The batch entry asks for something this version does not know."""

    slug = "unknown-operation"
    status = 422


class WarehouseUnsupported(Problem):
    """The database knows no warehouses."""

    slug = "warehouse-unsupported"
    status = 422


# --- what may work later


class DatabaseUnavailable(Problem):
    """The database cannot be used at the moment."""

    slug = "database-unavailable"
    status = 503


class RateLimited(Problem):
    """The caller has used up what one may use in a while."""

    slug = "rate-limited"
    status = 429


class KeysUnavailable(Problem):
    """The keys that verify tokens cannot be had at the moment."""

    slug = "keys-unavailable"
    status = 503


class WireVersionNotSupported(Problem):
    """This replica does not speak the batch's wire version."""

    slug = "wire-version-not-supported"
    status = 503
