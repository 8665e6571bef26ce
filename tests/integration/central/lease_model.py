"""A model of leases and the orphan closer, for the property test."""

from dataclasses import dataclass, field

from central.jobs.orphan_closer import LAPSED_DIVISOR, MIN_SUSPICIOUS
from tests.integration.central.lease_fixtures import LEASE_S

FAILED = 4
BREAK_S = LEASE_S / 3
SIDECARS = ("a", "a2", "b")
UNITS = {"a": 201, "a2": 201, "b": 202}


@dataclass
class Run:
    sidecar: str
    boot: str | None
    status: int = 0
    ended_by: str | None = None
    """A sidecar, or why central closed it, or "somebody"."""

    @property
    def is_open(self) -> bool:
        return self.status < 3

    @property
    def is_closed(self) -> bool:
        return self.status == FAILED and self.ended_by not in {*SIDECARS, "somebody"}

    def write(self, sidecar: str, status: int) -> str:
        if status < 0 or (not self.is_open and status == self.status and not self.is_closed):
            return "applied"
        if not self.is_open:
            if status < 3:
                return "late"
            if not self.is_closed and (self.status, status, self.ended_by) != (5, 3, sidecar):
                return "status-conflict"
        self.status, self.ended_by = status, sidecar if status >= 3 else None
        return "applied"


@dataclass
class Rules:
    """Runs, leases and the availability of renewals, with a clock of the model."""

    now_s: float = 0.0
    served_since: float | None = None
    heartbeat_at: float = 0.0
    runs: dict[int, Run] = field(default_factory=dict)
    leases: dict[int, float] = field(default_factory=dict)
    """Expiry, by execution id."""
    terminated_at: dict[int, float] = field(default_factory=dict)
    closing_count: int = 0
    """How many times a run was closed as FAILED."""

    def heartbeat(self, *, is_broken: bool = False) -> None:
        silence_s = self.now_s - self.heartbeat_at
        if self.served_since is None or is_broken or not -BREAK_S <= silence_s < BREAK_S:
            self.served_since = self.now_s
        self.heartbeat_at = self.now_s

    def silent(self) -> list[int]:
        return [
            eid
            for eid, expires_at in self.leases.items()
            if expires_at <= self.now_s
            and self.runs[eid].is_open
            and not self.is_over(UNITS[self.runs[eid].sidecar])
        ]

    def is_over(self, unit: int) -> bool:
        terminated_at = self.terminated_at.get(unit)
        return terminated_at is not None and self.now_s - terminated_at >= LEASE_S

    def limit(self) -> int:
        lapsed_ends = [
            eid
            for eid, expires_at in self.leases.items()
            if expires_at <= self.now_s and not self.runs[eid].is_open
        ]
        return max(MIN_SUSPICIOUS, (len(self.leases) - len(lapsed_ends)) // LAPSED_DIVISOR)

    def unheard(self) -> list[int]:
        """Not renewed for half a lease, without a known reason."""
        return [
            eid
            for eid, expires_at in self.leases.items()
            if expires_at <= self.now_s + LEASE_S / 2
            and self.runs[eid].is_open
            and UNITS[self.runs[eid].sidecar] not in self.terminated_at
        ]

    def orphans(self) -> dict[int, str]:
        found = {
            eid: "unit-terminated"
            for eid in self.leases
            if self.runs[eid].is_open and self.is_over(UNITS[self.runs[eid].sidecar])
        }
        assert self.served_since is not None
        silent = self.silent()
        if self.now_s - self.served_since >= LEASE_S and len(self.unheard()) <= self.limit():
            found |= dict.fromkeys(silent, "lease-lapsed")
        return found

    def close(self, reasons: dict[int, str]) -> None:
        for eid, reason in reasons.items():
            self.runs[eid].status, self.runs[eid].ended_by = FAILED, reason
            del self.leases[eid]
            self.closing_count += 1

    def drop_ended_leases(self) -> None:
        self.leases = {
            eid: expires_at
            for eid, expires_at in self.leases.items()
            if self.runs[eid].is_open or expires_at > self.now_s
        }

    def renewed(self, runs: dict[int, Run]) -> None:
        for eid, run in runs.items():
            if run.is_open:
                self.leases[eid] = self.now_s + LEASE_S
