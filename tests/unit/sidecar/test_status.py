"""What the operator sees of the spool: readiness, `/status` and metrics."""

from pathlib import Path

import pytest

from sidecar.lifecycle import build_sidecar
from sidecar.settings import Settings
from sidecar.spool.entry import Priority
from tests.unit.sidecar.spool_fixtures import update


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment(
        {"SIDECAR_CENTRAL_URL": "http://127.0.0.1:9", "SIDECAR_SPOOL_DIR": str(tmp_path)}
    )


async def test_a_terminal_status_that_waits_is_shown_by_the_next_start(settings: Settings) -> None:
    """It is no reason not to be ready: central may be down for long."""
    async with build_sidecar(settings) as sidecar:
        await sidecar.spool.append(update(name="x"))
        await sidecar.spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))

    async with build_sidecar(settings) as sidecar:
        spool = sidecar.describe()["spool"]
        not_ready = sidecar.not_ready()

    assert (spool["waiting"], spool["waiting_terminal"]) == (2, 1)
    assert not_ready == ["starting"]  # and nothing else: `serve` ends that


@pytest.mark.parametrize("noun", ["commits", "syncs", "epochs", "quarantined_entries"])
async def test_what_the_spool_counts_since_its_start_is_exposed_as_a_counter(
    settings: Settings, noun: str
) -> None:
    async with build_sidecar(settings) as sidecar:
        families = {family.name: family.type for family in sidecar.metrics.registry.collect()}
        await sidecar.spool.append(update(name="x"))
        value = sidecar.metrics.registry.get_sample_value(f"sidecar_spool_{noun}_total")

    assert families[f"sidecar_spool_{noun}"] == "counter"
    assert value is not None
    assert (value > 0) is (noun in {"commits", "syncs"})
