"""What is done about a statement that the database fails, by the class of its SQLSTATE.

| policy | meaning | what is done |
|---|---|---|
| RETRY | the transaction met another one | run again at once, a few times |
| UNAVAILABLE | the database cannot serve now | `database-unavailable`; the sidecar sends again |
| UNPREPARED | the statement fits no such schema, or lacks a grant | the same; `migrate` is due |
| REFUSE | the row cannot hold the value | the entry alone is refused, at once |
| ISOLATE | something else fails this row | the entry alone is deferred, and refused after a time |

ISOLATE is every class that the table does not name: a trigger that raises (P0), a row-level policy
(42501), an extension, a damaged page (XX). Such a row must not stop the others
(`store/failing_rows.py`), and may heal when an operator acts. How long that may take is
`CENTRAL_UNSTORABLE_AFTER_S`.
"""

from enum import Enum, auto

import asyncpg

from central import problems
from kit.http.problems import Problem

StatementError = asyncpg.PostgresError


class Policy(Enum):
    RETRY = auto()
    UNAVAILABLE = auto()
    UNPREPARED = auto()
    REFUSE = auto()
    ISOLATE = auto()


POLICIES = {
    "08": Policy.UNAVAILABLE,  # connection
    "22": Policy.REFUSE,  # value
    "23": Policy.REFUSE,  # constraint
    "25": Policy.UNAVAILABLE,  # a standby, until the new primary is found; a session's timeout
    "28": Policy.UNAVAILABLE,  # login
    "26": Policy.UNAVAILABLE,  # a pooler that does not keep our prepared statements
    "3D": Policy.UNAVAILABLE,  # no such database
    "3F": Policy.UNPREPARED,  # no such schema
    "40": Policy.RETRY,  # deadlock, serialization
    "42": Policy.UNPREPARED,  # no such table or column, another type, no privilege
    "42P05": Policy.UNAVAILABLE,  # as 26
    "53": Policy.UNAVAILABLE,  # too many connections, disk full
    "55": Policy.UNAVAILABLE,  # lock timeout
    "57": Policy.UNAVAILABLE,  # shutdown, crash, a statement over its timeout
    "58": Policy.UNAVAILABLE,  # the server's operating system
}
"""By SQLSTATE, or by its class."""

ROW_POLICY_CHECK = "ExecWithCheckOptions"
"""The function of the server that fails a row by a row-level policy, with the SQLSTATE 42501."""

ROW_POLICIES = frozenset({Policy.REFUSE, Policy.ISOLATE})
"""The row fails, not the database: other rows can be written."""


def policy_of(error: Exception) -> Policy:
    if isinstance(error, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError):
        return Policy.RETRY  # prepared before a schema change
    if not isinstance(error, asyncpg.PostgresError):
        return Policy.UNAVAILABLE
    sqlstate = error.sqlstate or ""
    policy = POLICIES.get(sqlstate) or POLICIES.get(sqlstate[:2], Policy.ISOLATE)
    if policy is Policy.UNPREPARED and _is_raised_for_a_row(error):
        return Policy.ISOLATE
    return policy


def _is_raised_for_a_row(error: asyncpg.PostgresError) -> bool:
    """Raised inside a trigger's function, or by a row-level policy: not by our own statement."""
    routine = getattr(error, "server_source_function", None)
    return routine == ROW_POLICY_CHECK or bool(getattr(error, "context", None))


def problem_of(error: StatementError) -> Problem:
    """Why an entry or a call is refused; `policy_of(error)` is one of `ROW_POLICIES`."""
    if isinstance(error, asyncpg.ForeignKeyViolationError):
        return problems.ExecutionNotFound("the execution was deleted meanwhile")
    if policy_of(error) is Policy.ISOLATE:
        return problems.Unstorable(f"the database fails the row (SQLSTATE {error.sqlstate})")
    constraint = f" ({error.constraint_name})" if getattr(error, "constraint_name", None) else ""
    return problems.ValueOutOfRange(f"{error}{constraint}")
