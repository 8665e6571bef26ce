"""A scripted central that holds leases, and a lease renewer in front of it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from sidecar.leases.health_check import UnitState
from sidecar.leases.renewer import LeaseRenewer
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.spool.bindings import Binding, Grant
from sidecar.spool.spool import Spool
from sidecar.wire.central import LostLease, RenewedLeases

UNREACHABLE = CentralUnavailable("cannot be reached", retry_after_s=1)
REFUSED = UpstreamProblem({"type": "assertion-invalid", "status": 401, "detail": "no"}, {})

PERIOD_S = 20.0


@dataclass
class FakeLeaseCentral:
    lease_s: float = 90.0
    lost: dict[int, str] = field(default_factory=dict)
    open: list[int] = field(default_factory=list)
    script: list[Exception] = field(default_factory=list)
    """Failures of the next calls."""
    renewed: list[list[int]] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Of `abandon`."""

    async def renew_leases(self, execution_ids: Sequence[int]) -> RenewedLeases:
        self._fail()
        self.renewed.append(list(execution_ids))
        lost = [LostLease(eid, self.lost[eid]) for eid in execution_ids if eid in self.lost]
        return RenewedLeases(self.lease_s, lost)

    async def open_bindings(self, *, min_age_s: float) -> list[int]:
        self._fail()
        self.ages_s.append(min_age_s)
        return self.open

    async def abandon(self, execution_ids: Sequence[int], reason: str | None = None) -> list[int]:
        self._fail()
        if reason is not None:
            self.reasons.append(reason)
        self.abandoned += execution_ids
        return list(execution_ids)

    def _fail(self) -> None:
        if self.script:
            raise self.script.pop(0)


@dataclass
class FakeUnit:
    state: UnitState = UnitState.UP
    check_count: int = 0

    async def check(self) -> UnitState:
        self.check_count += 1
        return self.state


async def bind(spool: Spool, *execution_ids: int, ended_at_ms: int | None = None) -> None:
    for execution_id in execution_ids:
        await spool.bindings.record(
            Binding(execution_id, 1, 2, 3, None, True, ended_at_ms),
            Grant(b"digest", execution_id, 3, 2**31),
        )


@dataclass
class RenewerRig:
    """A renewer with a real spool, a fake unit, jitter at its maximum and a manual clock."""

    spool: Spool
    central: FakeLeaseCentral = field(default_factory=FakeLeaseCentral)
    unit: FakeUnit = field(default_factory=FakeUnit)
    metrics: Metrics = field(default_factory=Metrics)
    now_s: float = 0.0
    period_s: float = PERIOD_S
    events: dict[float, Callable[[], Awaitable[None]]] = field(default_factory=dict)

    def renewer(self, *, fail_runs_on_restart: bool = False) -> LeaseRenewer:
        return LeaseRenewer(
            self.spool,
            self.central,
            self.unit,
            self.metrics,
            period_s=self.period_s,
            fail_runs_on_restart=fail_runs_on_restart,
            monotonic=lambda: self.now_s,
            sleep=self.sleep,
            uniform=lambda low, high: high,
        )

    async def sleep(self, seconds: float) -> None:
        """Advances the clock and runs the events that are due."""
        self.now_s += seconds
        for at_s in sorted(t for t in self.events if t <= self.now_s):
            await self.events.pop(at_s)()

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
