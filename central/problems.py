"""The problems of this service: the slug is the `type`, the docstring the `title`.

`kit.http.problems` has those that any service has (invalid-request, no-such-route, ...).
"""

from kit.http.problems import Problem

# --- authentication


class TokenMissing(Problem):
    """User token required."""

    slug = "token-missing"
    status = 401


class TokenInvalid(Problem):
    """User token invalid."""

    slug = "token-invalid"
    status = 401


class TokenExpired(Problem):
    """User token expired."""

    slug = "token-expired"
    status = 401


class AssertionMissing(Problem):
    """Sidecar assertion required."""

    slug = "assertion-missing"
    status = 401


class AssertionInvalid(Problem):
    """Sidecar assertion not valid for this call."""

    slug = "assertion-invalid"
    status = 401


class WorkloadMissing(Problem):
    """Workload token required."""

    slug = "workload-missing"
    status = 401


class WorkloadInvalid(Problem):
    """Workload token is not that of a computing unit's pod."""

    slug = "workload-invalid"
    status = 401


# --- authorization


class RoleNotAllowed(Problem):
    """Role not allowed."""

    slug = "role-not-allowed"
    status = 403


class RunTokenScope(Problem):
    """Run token not good for this call."""

    slug = "run-token-scope"
    status = 403


class WorkflowForbidden(Problem):
    """The user may read the workflow but not run it."""

    slug = "workflow-forbidden"
    status = 403


class ComputingUnitForbidden(Problem):
    """The user may see the computing unit but not run on it."""

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


class SourceNotBound(Problem):
    """The sidecar's key has no binding that is not revoked."""

    slug = "source-not-bound"
    status = 403


class SourceRevoked(Problem):
    """The sidecar's key was revoked."""

    slug = "source-revoked"
    status = 403


class NotTheRunner(Problem):
    """The sidecar did not run the execution, which has ended; it may not set its status."""

    slug = "not-the-runner"
    status = 403


class WrongComputingUnit(Problem):
    """The call is for another computing unit than that of the caller's pod."""

    slug = "wrong-computing-unit"
    status = 403


class BindingRevoked(Problem):
    """The sidecar's binding to the execution was revoked."""

    slug = "binding-revoked"
    status = 403


class CertificateMismatch(Problem):
    """The source was first used with another certificate."""

    slug = "certificate-mismatch"
    status = 403


class UserDemoted(Problem):
    """The user for whom the sidecar writes is no longer REGULAR or ADMIN."""

    slug = "user-demoted"
    status = 403


# --- not found, or not readable by the caller


class RunTokensDisabled(Problem):
    """This deployment issues no run tokens."""

    slug = "run-tokens-disabled"
    status = 404


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


# --- conflicts with the current state


class BoundElsewhere(Problem):
    """Another live sidecar is bound to the execution."""

    slug = "bound-elsewhere"
    status = 409


class BootSuperseded(Problem):
    """The computing unit has had a newer boot since."""

    slug = "boot-superseded"
    status = 409


class BootForbidden(Problem):
    """A boot is registered by the computing unit's own sidecar, or by its owner."""

    slug = "boot-forbidden"
    status = 403


class ComputingUnitTerminated(Problem):
    """The computing unit has been terminated."""

    slug = "computing-unit-terminated"
    status = 409


class ExecutionNotEnded(Problem):
    """The execution has not ended."""

    slug = "execution-not-ended"
    status = 409


class WorkflowUnreadable(Problem):
    """The stored workflow cannot be parsed."""

    slug = "workflow-unreadable"
    status = 409


class Late(Problem):
    """The execution has already ended; the status is late."""

    slug = "late"
    status = 409


class StatusConflict(Problem):
    """The execution has already ended otherwise."""

    slug = "status-conflict"
    status = 409


class UriConflict(Problem):
    """Another URI is already stored."""

    slug = "uri-conflict"
    status = 409


class SourceSucceeded(Problem):
    """The sidecar's key was replaced by another."""

    slug = "source-succeeded"
    status = 409


class SuccessorInUse(Problem):
    """The new key was used before."""

    slug = "successor-in-use"
    status = 409


class BatchOutOfStep(Problem):
    """The batch is neither the last one nor the next."""

    slug = "batch-out-of-step"
    status = 409


# --- invalid values


class IdempotencyKeyReused(Problem):
    """Idempotency key reused with another body."""

    slug = "idempotency-key-reused"
    status = 422


class UriMismatch(Problem):
    """The URI does not match its row."""

    slug = "uri-mismatch"
    status = 422


class ValueOutOfRange(Problem):
    """The database cannot hold the value."""

    slug = "value-out-of-range"
    status = 422


class Unstorable(Problem):
    """The database has failed the entry for a long time."""

    slug = "unstorable"
    status = 422


class UnknownOperation(Problem):
    """The operation of the batch entry is unknown to this version."""

    slug = "unknown-operation"
    status = 422


class WarehouseUnsupported(Problem):
    """The database has no warehouses."""

    slug = "warehouse-unsupported"
    status = 422


# --- temporary


class DatabaseUnavailable(Problem):
    """Database unavailable."""

    slug = "database-unavailable"
    status = 503


class RateLimited(Problem):
    """Rate limit exceeded."""

    slug = "rate-limited"
    status = 429


class KeysUnavailable(Problem):
    """Verification keys unavailable."""

    slug = "keys-unavailable"
    status = 503


class WireVersionNotSupported(Problem):
    """This replica does not support the batch's wire version."""

    slug = "wire-version-not-supported"
    status = 503
