"""Who is behind a call, once its tokens are verified (`central.auth`): the user, and the pod."""

from collections.abc import Callable
from dataclasses import dataclass

from central.problems import RoleNotAllowed, WrongComputingUnit
from kit.http.problems import Problem

ROLES = frozenset({"REGULAR", "ADMIN"})


@dataclass(frozen=True, slots=True)
class User:
    """The user of a valid token. Texera's services take the role from the token."""

    user_id: int
    role: str
    expires_at: float
    """Unix seconds, as in the token, without the leeway."""
    not_before: float = 0.0

    @property
    def reads_everything(self) -> bool:
        return self.role == "ADMIN"

    def check_role(self) -> None:
        """Raises `RoleNotAllowed` unless the role is REGULAR or ADMIN."""
        if self.role not in ROLES:
            raise RoleNotAllowed(f"expected REGULAR or ADMIN, the token says {self.role[:32]!r}")


@dataclass(frozen=True, slots=True)
class Workload:
    """The pod behind a call. `unit_id` is None if it is unknown and not required."""

    unit_id: int | None = None
    is_enforced: bool = False
    refuse: Callable[[Problem], None] = lambda problem: None

    @property
    def enforced_unit_id(self) -> int | None:
        """The one unit whose executions the call may touch; None for any."""
        return self.unit_id if self.is_enforced else None

    def check(self, unit_id: int | None) -> None:
        """Raises `WrongComputingUnit` for another unit than the pod's, where that is enforced."""
        if self.unit_id is not None and unit_id != self.unit_id:
            detail = f"the call came from a pod of computing unit {self.unit_id}, not of {unit_id}"
            self.refuse(WrongComputingUnit(detail))


UNRESTRICTED = Workload()
