"""The sidecar's view of central's responses to its own calls: batches, leases and bindings.

Unknown fields are for newer sidecars.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec


class EntryOutcome(msgspec.Struct):
    seq: int
    outcome: Literal["applied", "refused", "deferred"]
    problem: dict[str, Any] | None = None
    removed: dict[str, Any] | None = None


class BatchResponse(msgspec.Struct):
    batch: int
    outcomes: list[EntryOutcome]


class LostLease(msgspec.Struct, frozen=True):
    execution_id: int
    reason: str


class RenewedLeases(msgspec.Struct, frozen=True):
    """All requested executions now have a lease of this length, except the lost ones."""

    lease_s: Annotated[float, msgspec.Meta(gt=0)]
    lost: list[LostLease]


class OpenBinding(msgspec.Struct):
    execution_id: int


class OpenBindings(msgspec.Struct):
    bindings: list[OpenBinding]


class RunToken(msgspec.Struct, frozen=True):
    """Central's token of one run, with which this sidecar reads it."""

    token: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9\-._]+$")]
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)]
