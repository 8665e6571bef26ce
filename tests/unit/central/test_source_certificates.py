"""What a replica remembers of pinned sources, and for how long."""

import pytest
from prometheus_client import CollectorRegistry

from central.auth.source_certificates import CACHED_S, SourceCertificates
from central.metrics import Metrics
from central.problems import CertificateMismatch

HERE = {"subjectAltName": (("URI", "spiffe://texera.example/unit-7"),)}
ELSEWHERE = {"subjectAltName": (("URI", "spiffe://texera.example/unit-8"),)}
NAMELESS = {"subject": ((("commonName", "unit-7"),),)}


class Stored:
    """Pins as the database keeps them; counts the questions."""

    def __init__(self) -> None:
        self.pins: dict[str, str] = {}
        self.count = 0

    async def certificate(self, source_id: str, shown: str | None, *, has_user: bool) -> str | None:
        self.count += 1
        if shown is not None and has_user:
            self.pins.setdefault(source_id, shown)
        return self.pins.get(source_id)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def certificates(stored: Stored, clock: Clock) -> SourceCertificates:
    return SourceCertificates(stored, Metrics(CollectorRegistry()), timer=clock)


async def test_a_pinned_source_costs_no_statement_whether_accepted_or_refused(
    certificates: SourceCertificates, stored: Stored
) -> None:
    await certificates.check("source", HERE, has_user=True)

    for _ in range(100):
        await certificates.check("source", HERE, has_user=False)
        for wrong in (ELSEWHERE, NAMELESS, None):
            with pytest.raises(CertificateMismatch):
                await certificates.check("source", wrong, has_user=True)

    assert stored.count == 1


async def test_a_source_without_a_certificate_costs_a_statement_per_minute(
    certificates: SourceCertificates, stored: Stored, clock: Clock
) -> None:
    for _ in range(100):
        await certificates.check("source", None, has_user=True)
    assert stored.count == 1

    clock.now = CACHED_S + 1
    await certificates.check("source", None, has_user=True)
    assert stored.count == 2


async def test_the_first_certificate_counts_at_once_although_none_is_remembered(
    certificates: SourceCertificates,
) -> None:
    await certificates.check("source", None, has_user=True)

    await certificates.check("source", HERE, has_user=True)

    with pytest.raises(CertificateMismatch):
        await certificates.check("source", None, has_user=True)


async def test_another_replicas_pin_and_an_operators_word_count_within_a_minute(
    certificates: SourceCertificates, stored: Stored, clock: Clock
) -> None:
    await certificates.check("source", None, has_user=False)
    stored.pins["source"] = "URI:spiffe://texera.example/unit-8"

    clock.now = CACHED_S + 1
    with pytest.raises(CertificateMismatch):
        await certificates.check("source", HERE, has_user=True)

    del stored.pins["source"]
    clock.now = 2 * CACHED_S + 2
    await certificates.check("source", HERE, has_user=True)
