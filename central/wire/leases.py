"""Leases, boots and abandoned executions on the wire."""

from enum import StrEnum
from typing import Annotated, TypeAlias

import msgspec

from kit.texera.fields import BootId, ExecutionId

ExecutionIds: TypeAlias = Annotated[list[ExecutionId], msgspec.Meta(max_length=10_000)]
"""The limit is more than one computing unit can run, and 100 KB of JSON."""


class OpenBindingsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    min_age_s: Annotated[
        float, msgspec.Meta(ge=0, le=1e9, description="bound at least so many seconds ago")
    ] = 0.0


class BootRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    boot_id: BootId


class ExecutionList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    execution_ids: ExecutionIds


class AbandonReason(StrEnum):
    """How the source knows that nobody runs an execution that is bound to it."""

    ABANDONED_CREATE = "abandoned-create"  # it has no record of having created it
    UNIT_GONE = "unit-gone"  # the process of its computing unit that ran it is not there


class AbandonedExecutions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    execution_ids: ExecutionIds
    reason: AbandonReason = AbandonReason.ABANDONED_CREATE


class ClosedExecutions(msgspec.Struct, frozen=True):
    """The executions that the call ended as FAILED."""

    closed: list[int]


class LostReason(StrEnum):
    """Why a source no longer holds the lease of an execution."""

    CLOSED = "closed"  # as FAILED, provisionally: the source's own terminal status still counts
    ENDED = "ended"
    BOUND_ELSEWHERE = "bound-elsewhere"
    REVOKED = "binding-revoked"
    GONE = "execution-not-found"
    NOT_BOUND = "not-bound"


class LostLease(msgspec.Struct, frozen=True):
    execution_id: int
    reason: LostReason


class RenewedLeases(msgspec.Struct, frozen=True):
    """All requested executions have a lease of this length from now on, except the lost ones."""

    lease_s: float
    lost: list[LostLease]
