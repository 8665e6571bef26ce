"""Workload identity, the optional second factor: which pod a sidecar runs in.

A projected service-account token (ADR 8) is mounted in the sidecar's container
only. Its audience is this service, and it names its pod; the pod's name contains the computing
unit. It is verified offline against the cluster's key set. With it a stolen spool with its key
is useless outside its pod, and a pod of one unit writes nothing of another unit's.

Modes
    require   a source without a valid token is refused
    warn      what `require` would refuse is counted and logged, and the call goes on, so that
              an installation can be observed before the check is enforced
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from cachetools import TTLCache

from central.auth.keys import (
    CachedVerifier,
    JwtInvalid,
    Keys,
    check_issuer_and_audience,
    decode_claims,
)
from central.auth_settings import UNIT_PLACEHOLDER, WorkloadSettings
from central.domain.callers import UNRESTRICTED, Workload
from central.metrics import Metrics
from central.problems import WorkloadInvalid, WorkloadMissing
from kit.http.logs import fields
from kit.http.problems import Problem
from kit.texera.fields import INT32_MAX

logger = logging.getLogger(__name__)

HEADER = "Sidecar-Workload-Token"
MAX_CACHED_TOKENS = 10_000
LOG_DEDUP_S = 300.0
"""In mode `warn` the same problem is logged once within this time; the metric counts each."""


class Pod(msgspec.Struct, frozen=True):
    name: str


class Kubernetes(msgspec.Struct, frozen=True):
    namespace: str
    pod: Pod


class Claims(msgspec.Struct, frozen=True, rename={"kubernetes": "kubernetes.io"}):
    """The claims of a projected token; one that is not bound to a pod is refused."""

    aud: str | list[str]
    exp: float
    kubernetes: Kubernetes
    iss: str | None = None
    nbf: float | None = None


@dataclass(frozen=True, slots=True)
class VerifiedPod:
    unit_id: int
    expires_at: float
    not_before: float


class WorkloadVerifier:
    """Promise: a unit is returned only for a pod whose token the cluster has signed."""

    def __init__(
        self,
        keys: Keys,
        settings: WorkloadSettings,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = CachedVerifier(keys, self._parse, MAX_CACHED_TOKENS, timer=timer)
        self._settings = settings
        self._metrics = metrics
        self._now = now
        before, _, after = settings.pod_name.partition(UNIT_PLACEHOLDER)
        self._pod_name = re.compile(
            f"{re.escape(before)}([1-9][0-9]{{0,9}}){re.escape(after)}", re.ASCII
        )
        self._logged: TTLCache[tuple[str, str], bool] = TTLCache(
            MAX_CACHED_TOKENS, LOG_DEDUP_S, timer=timer
        )

    async def verify(self, token: str | None) -> Workload:
        """Mode `require` raises `WorkloadMissing`, `WorkloadInvalid` or `KeysUnavailable`."""
        try:
            unit_id = await self._unit_id(token)
        except Problem as problem:
            self._refuse(problem)
            return UNRESTRICTED
        self._metrics.credential("workload", "accepted")
        return Workload(unit_id, self._settings.mode == "require", self._refuse)

    async def _unit_id(self, token: str | None) -> int:
        if not token:
            raise WorkloadMissing(f"expected the header {HEADER}: the pod's projected token")
        try:
            pod, _ = await self._verifier.verify(token)
        except JwtInvalid as error:
            raise WorkloadInvalid(str(error)) from error
        now, leeway_s = self._now(), self._settings.leeway_s
        if now >= pod.expires_at + leeway_s:
            raise WorkloadInvalid(f"exp: passed {now - pod.expires_at:.0f} s ago")
        if now + leeway_s < pod.not_before:
            raise WorkloadInvalid("nbf: the token is not valid yet")
        return pod.unit_id

    def _parse(self, payload: bytes) -> VerifiedPod:
        claims, settings = decode_claims(payload, Claims), self._settings
        check_issuer_and_audience(claims, settings.issuer, settings.audience)
        if claims.kubernetes.namespace != settings.namespace:
            raise JwtInvalid("namespace: the pod is not in the computing units' namespace")
        match = self._pod_name.fullmatch(claims.kubernetes.pod.name)
        if match is None or int(match[1]) > INT32_MAX:
            raise JwtInvalid("pod: its name is not that of a computing unit's pod")
        return VerifiedPod(int(match[1]), claims.exp, claims.nbf or 0.0)

    def _refuse(self, problem: Problem) -> None:
        """Counts the problem; mode `require` raises it, mode `warn` logs it."""
        self._metrics.credential("workload", problem.slug)
        if self._settings.mode == "require":
            raise problem
        if (problem.slug, problem.detail) not in self._logged:
            self._logged[problem.slug, problem.detail] = True
            logger.warning(
                "workload would be refused",
                extra=fields(problem=problem.slug, detail=problem.detail),
            )
