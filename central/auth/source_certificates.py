"""The certificate identity that a source's calls have to come with (ADR 71).

    unpinned --first call with a certificate, by a user or of a bound source--> pinned

Where sidecars show certificates (mutual TLS), a source is accepted only with the identity that it
was first used with: a key that is stolen from a spool is useless to whoever has not the
certificate too. That also holds where certificates are only requested: who shows none is refused
for a source that has used one.

A pin never changes, so a replica remembers it; for a minute only, so that an operator who forgets
one is obeyed, and a source that another replica has pinned meanwhile is noticed.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cachetools import TTLCache

from central.metrics import Metrics
from central.problems import CertificateMismatch
from kit.http.tls import certificate_identity

MAX_CACHED_SOURCES = 10_000
"""More sidecars than a replica serves; about 200 bytes each."""
CACHED_S = 60.0


class Pins(Protocol):
    async def certificate(self, source_id: str, shown: str | None, *, has_user: bool) -> str | None:
        """The source's pinned identity, if it has one; `shown` is pinned if it may be."""


class SourceCertificates:
    """Promise: a source that was used with a certificate is accepted with its identity alone."""

    def __init__(
        self, pins: Pins, metrics: Metrics, *, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._pins = pins
        self._metrics = metrics
        self._known: TTLCache[str, str | None] = TTLCache(MAX_CACHED_SOURCES, CACHED_S, timer)

    async def check(
        self, source_id: str, certificate: Mapping[str, Any] | None, *, has_user: bool
    ) -> None:
        """`certificate` is the connection's, verified; None if the client has shown none.

        `has_user`: the call carries a verified user's token; a key alone anyone can make. Raises
        `CertificateMismatch`.
        """
        shown = certificate_identity(certificate)
        pinned = self._known.get(source_id, "")
        if pinned == "" or (pinned is None and has_user and shown is not None):
            pinned = await self._pins.certificate(source_id, shown, has_user=has_user)
            self._known[source_id] = pinned
        if pinned is not None and pinned != shown:
            self._metrics.credential("certificate", CertificateMismatch.slug)
            raise CertificateMismatch(
                "the source was first used with another certificate than "
                f"{'none' if shown is None else shown}"
            )
        if shown is not None:
            self._metrics.credential("certificate", "accepted")
