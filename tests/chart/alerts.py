"""For every alert: what the services would show, and the alert that follows.

Values are in promtool's notation: `0+60x20` is 0, 60, 120, ... once a minute.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

AT_MINUTES = 30
"""Evaluation time of the rules, later than any `for`."""


SCRAPED_CENTRAL = {
    "namespace": "texera",
    "job": "metadata-texera-cu-sidecar-central",
    "pod": "metadata-texera-cu-sidecar-central-0",
}
SCRAPED_POD = {
    "namespace": "texera-workflow-computing-unit-pool",
    "job": "texera/metadata-texera-cu-sidecar-sidecars",
    "pod": "computing-unit-7",
}


def labelled(labels: Mapping[str, str]) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in labels.items())


CENTRAL, SIDECAR = labelled(SCRAPED_CENTRAL), labelled(SCRAPED_POD)
FETCHED, NOT_FETCHED = (
    f'central_jwks_fetches_total{{{CENTRAL}, keys="workloads", outcome="{outcome}"}}'
    for outcome in ("fetched", "failed")
)


@dataclass(frozen=True)
class Firing:
    """The series that fire an alert, added to those of a healthy system."""

    series: Mapping[str, str]
    summary: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels besides the severity."""


HEALTHY: Mapping[str, str] = {
    f"up{{{CENTRAL}}}": "1x40",
    f'central_requests_total{{{CENTRAL}, outcome="ok"}}': "0+600x40",
    f'central_requests_total{{{CENTRAL}, outcome="failed"}}': "0+1x40",
    f'central_database_errors_total{{{CENTRAL}, reason="unavailable"}}': "3x40",
    f'central_database_connections{{{CENTRAL}, state="in_use"}}': "10x22 2 10x17",
    f'central_database_connections{{{CENTRAL}, state="open"}}': "10x40",
    FETCHED: "0+1x40",
    NOT_FETCHED: "0x10 0+1x29",
    f"central_orphans_withheld{{{CENTRAL}}}": "0x40",
    f"central_unclosable_orphans{{{CENTRAL}}}": "0x40",
    f'central_refusals_total{{{CENTRAL}, slug="late"}}': "0+5x40",
    f'central_refusals_total{{{CENTRAL}, slug="uri-conflict"}}': "7x40",
    f'central_closer_passes_total{{{CENTRAL}, outcome="failed"}}': "0x28 0+1x11",
    f'central_closer_passes_total{{{CENTRAL}, outcome="idle"}}': "0+6x40",
    f"central_uninterrupted_seconds{{{CENTRAL}}}": "0+60x20 0+60x19",
    f'central_closed_executions_total{{{CENTRAL}, reason="lease-lapsed"}}': "3x40",
    f'central_closed_executions_total{{{CENTRAL}, reason="unit-terminated"}}': "0+1x40",
    f'central_lost_leases_total{{{CENTRAL}, reason="closed"}}': "2x40",
    f'central_lost_leases_total{{{CENTRAL}, reason="ended"}}': "0+1x40",
    f"sidecar_renewal_age_seconds{{{SIDECAR}}}": "20 40 50 3 20x36",
    f'sidecar_task_restarts_total{{{SIDECAR}, task="delivery"}}': "0x40",
    f'central_task_restarts_total{{{CENTRAL}, task="closer"}}': "2x40",
    f"sidecar_spool_epochs_total{{{SIDECAR}}}": "0x40",
    f'sidecar_rate_limited_calls_total{{{SIDECAR}, limit="writes"}}': "3x40",
    f"sidecar_delivery_parked{{{SIDECAR}}}": "0 1 0x38",
    f"sidecar_central_reachable{{{SIDECAR}}}": "1 0 0 1x37",
    f'sidecar_spool_entries{{{SIDECAR}, priority="normal"}}': "0x20 40 30 20 10 5 4 3 2 1 1x11",
    f'sidecar_batches_total{{{SIDECAR}, outcome="delivered"}}': "0+6x40",
    f'sidecar_batches_total{{{SIDECAR}, outcome="unavailable"}}': "0x40",
    f"sidecar_spool_bytes{{{SIDECAR}}}": "100000x40",
    f"sidecar_spool_full{{{SIDECAR}}}": "0x40",
    f"sidecar_spool_quarantined_entries_total{{{SIDECAR}}}": "0x40",
    f'sidecar_refused_writes_total{{{SIDECAR}, slug="late"}}': "0+1x40",
    f'sidecar_delivery_seconds_bucket{{{SIDECAR}, le="0.01"}}': "0+600x40",
    f'sidecar_delivery_seconds_bucket{{{SIDECAR}, le="10"}}': "0+601x40",
    f'sidecar_delivery_seconds_bucket{{{SIDECAR}, le="+Inf"}}': "0+601x40",
}
"""Normal operation: some 503, a late status, a short park, a backlog that drains."""

FIRING: Mapping[str, Firing] = {
    "TexeraCentralDown": Firing(
        {f"up{{{CENTRAL}}}": "0x40"},
        "No replica of central can be scraped.",
    ),
    "TexeraCentralErrors": Firing(
        {f'central_requests_total{{{CENTRAL}, outcome="failed"}}': "0+200x40"},
        "Central fails 25% of its calls.",
    ),
    "TexeraCentralDatabase": Firing(
        {f'central_database_errors_total{{{CENTRAL}, reason="unavailable"}}': "0+10x40"},
        "Central cannot use the database: unavailable.",
        {"reason": "unavailable"},
    ),
    "TexeraCentralRowFails": Firing(
        {f'central_database_errors_total{{{CENTRAL}, reason="isolated"}}': "0+10x40"},
        "The database fails single rows of central's, by a trigger or a row-level policy.",
    ),
    "TexeraCentralPoolExhausted": Firing(
        {f'central_database_connections{{{CENTRAL}, state="in_use"}}': "10x40"},
        "All connections of metadata-texera-cu-sidecar-central-0 have been in use for 10 minutes.",
        SCRAPED_CENTRAL | {"state": "in_use"},
    ),
    "TexeraCentralTaskFailing": Firing(
        {f'central_task_restarts_total{{{CENTRAL}, task="closer"}}': "2x25 3x15"},
        "The task closer of central fails and is restarted.",
        {"task": "closer"},
    ),
    "TexeraCentralKeySet": Firing(
        {FETCHED: "1x40", NOT_FETCHED: "0+1x40"},
        "The key set of workloads cannot be fetched.",
        {"keys": "workloads"},
    ),
    "TexeraCentralOrphansWithheld": Firing(
        {f"central_orphans_withheld{{{CENTRAL}}}": "0x20 8x20"},
        "8 leases lapsed at once; their runs are not closed.",
    ),
    "TexeraCentralOrphansUnclosable": Firing(
        {f"central_unclosable_orphans{{{CENTRAL}}}": "0x10 2x30"},
        "The database fails to close 2 orphaned runs.",
    ),
    "TexeraCentralCloserFailing": Firing(
        {
            f'central_closer_passes_total{{{CENTRAL}, outcome="failed"}}': "0+6x40",
            f'central_closer_passes_total{{{CENTRAL}, outcome="idle"}}': "7x40",
        },
        "Every pass of the orphan closer fails.",
    ),
    "TexeraCentralRenewalsInterrupted": Firing(
        {f"central_uninterrupted_seconds{{{CENTRAL}}}": "0 60 " * 20},
        "Central has not served renewals for one full lease, so no lapsed lease is acted on.",
    ),
    "TexeraCentralRunsClosed": Firing(
        {f'central_closed_executions_total{{{CENTRAL}, reason="lease-lapsed"}}': "0x25 1x15"},
        "Runs are closed as FAILED because their unit or its sidecar is gone.",
    ),
    "TexeraCentralLiveRunsClosed": Firing(
        {f'central_lost_leases_total{{{CENTRAL}, reason="closed"}}': "0x25 1x15"},
        "Runs were closed as FAILED although their sidecar is running.",
    ),
    "TexeraCentralWritesRefused": Firing(
        {f'central_refusals_total{{{CENTRAL}, slug="uri-conflict"}}': "7x25 8x15"},
        "Writes are refused: uri-conflict.",
        {"slug": "uri-conflict"},
    ),
    "TexeraSidecarDeliveryParked": Firing(
        {f"sidecar_delivery_parked{{{SIDECAR}}}": "0x20 1x20"},
        "Central refuses the batches of computing-unit-7 as a whole.",
        SCRAPED_POD,
    ),
    "TexeraSidecarCentralUnreachable": Firing(
        {f"sidecar_central_reachable{{{SIDECAR}}}": "1x10 0x30"},
        "computing-unit-7 cannot reach central.",
        SCRAPED_POD,
    ),
    "TexeraSidecarNotDelivering": Firing(
        {
            f'sidecar_spool_entries{{{SIDECAR}, priority="normal"}}': "0 12x40",
            f'sidecar_batches_total{{{SIDECAR}, outcome="delivered"}}': "6x40",
        },
        "12 writes wait in computing-unit-7 and none is delivered.",
        SCRAPED_POD,
    ),
    "TexeraSidecarTaskFailing": Firing(
        {f'sidecar_task_restarts_total{{{SIDECAR}, task="delivery"}}': "0x25 1x15"},
        "The task delivery of computing-unit-7 fails and is restarted.",
        {"pod": "computing-unit-7", "task": "delivery"},
    ),
    "TexeraSidecarLeasesAtRisk": Firing(
        {f"sidecar_renewal_age_seconds{{{SIDECAR}}}": "20x25 60 60 60 60 60 60x10"},
        "computing-unit-7 has not renewed the leases of its open runs for 1m 0s.",
        SCRAPED_POD,
    ),
    "TexeraSidecarNewEpoch": Firing(
        {f"sidecar_spool_epochs_total{{{SIDECAR}}}": "0x25 1x15"},
        "computing-unit-7 started a new epoch: some writes may have been applied twice.",
        SCRAPED_POD,
    ),
    "TexeraSidecarRateLimited": Firing(
        {f'sidecar_rate_limited_calls_total{{{SIDECAR}, limit="writes"}}': "3x25 40x15"},
        "computing-unit-7 rate-limits calls (writes).",
        {"pod": "computing-unit-7", "limit": "writes"},
    ),
    "TexeraSidecarSpoolFilling": Firing(
        {f"sidecar_spool_bytes{{{SIDECAR}}}": "201326592x40"},
        "The spool of computing-unit-7 is 75% full.",
        SCRAPED_POD,
    ),
    "TexeraSidecarSpoolFull": Firing(
        {f"sidecar_spool_full{{{SIDECAR}}}": "0x25 1x15"},
        "computing-unit-7 refuses writes: its spool is full.",
        SCRAPED_POD,
    ),
    "TexeraSidecarSpoolCorrupted": Firing(
        {f"sidecar_spool_quarantined_entries_total{{{SIDECAR}}}": "0x25 2x15"},
        "2 writes of computing-unit-7 are corrupted.",
        SCRAPED_POD,
    ),
    "TexeraSidecarWritesRefused": Firing(
        {f'sidecar_refused_writes_total{{{SIDECAR}, slug="uri-conflict"}}': "0x25 1x15"},
        "Central refused writes of computing-unit-7: uri-conflict.",
        {"pod": "computing-unit-7", "slug": "uri-conflict"},
    ),
    "TexeraSidecarSlowDelivery": Firing(
        {f'sidecar_delivery_seconds_bucket{{{SIDECAR}, le="0.01"}}': "0+6x40"},
        "Writes take 9.899s from durable to committed (p99).",
    ),
}
