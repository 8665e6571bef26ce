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


async def test_every_value_of_the_spool_is_read_at_the_scrape(settings: Settings) -> None:
    async with build_sidecar(settings) as sidecar:
        await sidecar.spool.append(update(name="x"))
        await sidecar.spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))

        shown = {
            (sample.name, sample.labels.get("priority")): sample.value
            for family in sidecar.metrics.registry.collect()
            for sample in family.samples
        }

    assert shown["sidecar_spool_entries", "terminal"] == 1
    assert shown["sidecar_spool_entries", "uri"] == 0
    assert shown["sidecar_spool_entries", "normal"] == 1
    assert shown["sidecar_spool_bytes", None] > 0
    assert 0 < shown["sidecar_spool_used_ratio", None] < 0.01
    assert shown["sidecar_spool_sync_seconds_count", None] > 0
    assert shown["sidecar_spool_unavailable", None] == 0
    assert shown["sidecar_build_info", None] == 1


async def test_the_age_of_the_oldest_write_outlives_a_restart(settings: Settings) -> None:
    async with build_sidecar(settings) as sidecar:
        await sidecar.spool.append(update(name="x"))
        made_at_ms = sidecar.spool.queues.oldest_ms(Priority.NORMAL)
        await sidecar.spool.append(update(name="y"))

    async with build_sidecar(settings) as sidecar:
        known_ms = [sidecar.spool.queues.oldest_ms(priority) for priority in Priority]
        age_s = sidecar.metrics.registry.get_sample_value(
            "sidecar_spool_oldest_entry_age_seconds", {"priority": "normal"}
        )

    assert known_ms == [None, None, None, made_at_ms]
    assert age_s is not None
    assert 0 < age_s < 60
