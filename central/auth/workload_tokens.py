"""Workload identity, the optional second factor: which pod a sidecar runs in.

A projected service-account token (TEXERA.md, section 6) is mounted in the sidecar's container
only, made out to this service, and names its pod; the pod's name names the computing unit. It
is verified offline against the cluster's key set. With it a stolen spool, key and all, is of no
use outside its pod, and a pod of one unit writes nothing of another's.

`require` refuses whoever does not show it; `warn` only counts and logs what `require` would
refuse, so that an installation can be watched before it is closed.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from cachetools import TTLCache

from central.auth.signatures import Keys, SignatureInvalid, SignatureVerifier, token_digest
from central.auth_settings import UNIT_PLACE, WorkloadSettings
from central.metrics import Metrics
from central.problems import WorkloadInvalid, WorkloadMissing, WrongComputingUnit
from kit.http.logs import fields
from kit.http.problems import Problem
from kit.http.validation import INT32_MAX

logger = logging.getLogger(__name__)

HEADER = "Sidecar-Workload-Token"
REMEMBERED_TOKENS = 10_000
REMEMBERED_S = 300.0
LOG_DEDUP_S = 300.0
"""The same refusal that is none is logged once in this time; the metric counts each."""


class Pod(msgspec.Struct, frozen=True):
    name: str


class Kubernetes(msgspec.Struct, frozen=True):
    namespace: str
    pod: Pod


class Claims(msgspec.Struct, frozen=True, rename={"kubernetes": "kubernetes.io"}):
    """What a projected token says of its pod; a token that is bound to none is refused."""

    aud: str | list[str]
    exp: float
    kubernetes: Kubernetes
    iss: str | None = None
    nbf: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """The pod behind a call. `unit_id` None: not known, and not asked for."""

    unit_id: int | None = None
    is_enforced: bool = False
    refuse: Callable[[Problem], None] = lambda problem: None

    @property
    def enforced_unit_id(self) -> int | None:
        """The one unit whose executions the call may touch; None where any will do."""
        return self.unit_id if self.is_enforced else None

    def check(self, unit_id: int | None) -> None:
        """Raises `WrongComputingUnit` for another unit than the pod's, where that is required."""
        if self.unit_id is not None and unit_id != self.unit_id:
            told = f"the call came from a pod of computing unit {self.unit_id}, not of {unit_id}"
            self.refuse(WrongComputingUnit(told))


UNRESTRICTED = Workload()


class WorkloadVerifier:
    """Promise: a unit is answered only for a pod that the cluster vouches for."""

    def __init__(
        self,
        keys: Keys,
        settings: WorkloadSettings,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signatures = SignatureVerifier(keys)
        self._settings = settings
        self._metrics = metrics
        self._now = now
        before, _, after = settings.pod_name.partition(UNIT_PLACE)
        self._pod_name = re.compile(
            f"{re.escape(before)}([1-9][0-9]{{0,9}}){re.escape(after)}", re.ASCII
        )
        self._remembered: TTLCache[bytes, tuple[int, Claims]] = TTLCache(
            REMEMBERED_TOKENS, REMEMBERED_S, timer=timer
        )
        self._logged: TTLCache[tuple[str, str], bool] = TTLCache(
            REMEMBERED_TOKENS, LOG_DEDUP_S, timer=timer
        )

    async def verify(self, token: str | None) -> Workload:
        """Raises `WorkloadMissing`, `WorkloadInvalid` or `KeysUnavailable` where required."""
        try:
            unit_id = await self._verify(token)
        except Problem as problem:
            self._refuse(problem)
            return UNRESTRICTED
        self._metrics.credential("workload", "accepted")
        return Workload(unit_id, self._settings.mode == "require", self._refuse)

    async def _verify(self, token: str | None) -> int:
        if not token:
            raise WorkloadMissing(f"expected the header {HEADER}: the pod's projected token")
        claims = await self._claims(token)
        settings, now = self._settings, self._now()
        if now >= claims.exp + settings.leeway_s:
            raise WorkloadInvalid(f"exp: passed {now - claims.exp:.0f} s ago")
        if claims.nbf is not None and now + settings.leeway_s < claims.nbf:
            raise WorkloadInvalid("nbf: the token is not valid yet")
        audiences = claims.aud if isinstance(claims.aud, list) else [claims.aud]
        if settings.audience not in audiences:
            raise WorkloadInvalid("aud: the token is for somebody else")
        if settings.issuer is not None and claims.iss != settings.issuer:
            raise WorkloadInvalid("iss: the token is another cluster's")
        if claims.kubernetes.namespace != settings.namespace:
            raise WorkloadInvalid("namespace: the pod is not in the computing units' namespace")
        match = self._pod_name.fullmatch(claims.kubernetes.pod.name)
        if match is None or int(match[1]) > INT32_MAX:
            raise WorkloadInvalid("pod: its name is not that of a computing unit's pod")
        return int(match[1])

    async def _claims(self, token: str) -> Claims:
        digest = token_digest(token)
        generation = await self._signatures.generation()
        remembered = self._remembered.get(digest)
        if remembered is not None and remembered[0] == generation:
            return remembered[1]
        try:
            payload = await self._signatures.payload(token)
            claims = msgspec.json.decode(payload, type=Claims)
        except SignatureInvalid as error:
            raise WorkloadInvalid(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WorkloadInvalid(f"claims: {error}") from error
        self._remembered[digest] = (generation, claims)
        return claims

    def _refuse(self, problem: Problem) -> None:
        """Raises the problem where it counts, else counts what would have been refused."""
        self._metrics.credential("workload", problem.slug)
        if self._settings.mode == "require":
            raise problem
        if (problem.slug, problem.detail) not in self._logged:
            self._logged[problem.slug, problem.detail] = True
            logger.warning(
                "workload would be refused",
                extra=fields(problem=problem.slug, detail=problem.detail),
            )
