"""The spool's part of `/status`."""

from typing import Any

from sidecar.spool.spool import Spool


def describe(spool: Spool) -> dict[str, Any]:
    """The spool's part of `/status`."""
    return {
        "spool_id": spool.spool_id,
        "waiting": spool.queues.entry_count,
        "waiting_merged": spool.queues.coalesced_count,
        "waiting_bytes": spool.queues.size_bytes,
        "full": spool.is_full,
        "disk_full": spool.disk_full,
        "unavailable_because": spool.unavailable_because,
        "quarantined": spool.quarantined_count,
        "epochs_started": spool.epochs_started,
    }
