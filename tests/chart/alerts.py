"""For every alert: what the services would show, and the alert that follows.

Values are in promtool's notation: `0+60x20` is 0, 60, 120, ... once a minute, and `_x25` is no
sample for 25 minutes. A pod that is new shows its counters for the first time after the event.
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
OTHERS = [labelled(SCRAPED_POD | {"pod": f"computing-unit-{number}"}) for number in (8, 9)]
NEW_CENTRAL = labelled(SCRAPED_CENTRAL | {"pod": "metadata-texera-cu-sidecar-central-1"})
NEW_SIDECAR = labelled(SCRAPED_POD | {"pod": "computing-unit-10"})
YOUNG = {
    f"process_start_time_seconds{{{pod}}}": "_x25 1530x15" for pod in (NEW_CENTRAL, NEW_SIDECAR)
}
"""A pod of each service that was started half a minute before its first scrape."""
OK, FAILED = (
    f'central_requests_total{{{CENTRAL}, route="/v1/batches", outcome="{outcome}"}}'
    for outcome in ("ok", "failed")
)
FETCHED, NOT_FETCHED = (
    f'central_jwks_fetches_total{{{CENTRAL}, keys="workloads", outcome="{outcome}"}}'
    for outcome in ("fetched", "failed")
)
OLDEST = f'sidecar_spool_oldest_entry_age_seconds{{{SIDECAR}, priority="normal"}}'
WITHIN_10_S = f'sidecar_delivery_seconds_bucket{{{SIDECAR}, le="10.0"}}'
FIRST = "_x25 1x15"
"""A counter of a new pod: absent, then one."""
AGAIN = "0x25 1x15"
"""A counter of an old pod."""


@dataclass(frozen=True)
class Firing:
    """The series that fire an alert, added to those of a healthy system."""

    series: Mapping[str, str]
    summary: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels besides the severity."""
    inhibiting: Mapping[str, str] = field(default_factory=dict)
    """Series of a fault of central's, for which another alert fires and this one does not."""


HEALTHY: Mapping[str, str] = {
    f"up{{{CENTRAL}}}": "1x40",
    OK: "0+600x40",
    FAILED: "0+1x40",
    f'central_requests_total{{{CENTRAL}, route="none", outcome="failed"}}': "0+900x40",
    f"process_start_time_seconds{{{CENTRAL}}}": "0x40",
    f'central_database_errors_total{{{CENTRAL}, reason="unavailable"}}': "3x40",
    f'central_database_errors_total{{{CENTRAL}, reason="isolated"}}': "3x40",
    FETCHED: "0+1x40",
    NOT_FETCHED: "0x10 0+1x29",
    f"central_orphans_withheld{{{CENTRAL}}}": "0x40",
    f"central_unclosable_orphans{{{CENTRAL}}}": "0x40",
    f'central_refusals_total{{{CENTRAL}, slug="late"}}': "0+5x40",
    f'central_refusals_total{{{CENTRAL}, slug="uri-conflict"}}': "7x40",
    f'central_closer_passes_total{{{CENTRAL}, outcome="failed"}}': "0x28 0+1x11",
    f'central_closer_passes_total{{{CENTRAL}, outcome="idle"}}': "0+6x40",
    f"central_uninterrupted_seconds{{{CENTRAL}}}": "0+60x20 0+60x19",
    f'central_lost_leases_total{{{CENTRAL}, reason="closed"}}': "2x40",
    f'central_lost_leases_total{{{CENTRAL}, reason="ended"}}': "0+1x40",
    f'central_task_restarts_total{{{CENTRAL}, task="closer"}}': "2x40",
    f"up{{{SIDECAR}}}": "1 0 0 1x37",
    f"process_start_time_seconds{{{SIDECAR}}}": "0x40",
    f"sidecar_central_reachable{{{SIDECAR}}}": "1 0 0 1x37",
    **{f"sidecar_central_reachable{{{other}}}": "1x40" for other in OTHERS},
    f"sidecar_renewal_age_seconds{{{SIDECAR}}}": "20 40 50 3 20x36",
    f'sidecar_task_restarts_total{{{SIDECAR}, task="delivery"}}': "0x40",
    f"sidecar_forgotten_batches_total{{{SIDECAR}}}": "0x40",
    OLDEST: "0x20 60 110 90 30 5 4 3 2 1 1x11",
    f"sidecar_spool_used_ratio{{{SIDECAR}}}": "0.3x40",
    f"sidecar_spool_full{{{SIDECAR}}}": "0x40",
    f"sidecar_spool_unavailable{{{SIDECAR}}}": "0x40",
    f"sidecar_spool_quarantined_entries_total{{{SIDECAR}}}": "0x40",
    WITHIN_10_S: "0+600x40",
    f"sidecar_delivery_seconds_count{{{SIDECAR}}}": "0+601x40",
}
"""Normal operation: some 503, failed probes of health, a late status, a backlog that drains."""

CENTRAL_DOWN = {f"up{{{CENTRAL}}}": "0x40"}
DATABASE_DOWN = {FAILED: "0+6000x40"}

FIRING: Mapping[str, Firing] = {
    "TexeraCentralDown": Firing(CENTRAL_DOWN, "No replica of central can be scraped."),
    "TexeraCentralErrorBudgetBurn": Firing({FAILED: "0+200x40"}, "Central fails 25% of its calls."),
    "TexeraCentralErrorBudgetBurn slowly": Firing(
        {FAILED: "0+25x40"}, "Central fails 4% of its calls."
    ),
    "TexeraCentralRowsFail": Firing(
        {f'central_database_errors_total{{{CENTRAL}, reason="isolated"}}': "0+10x40"},
        "The database fails single rows of central's, by a trigger or a row-level policy.",
    ),
    "TexeraCentralRowsFail of orphans": Firing(
        {f"central_unclosable_orphans{{{CENTRAL}}}": "0x10 2x30"},
        "The database fails single rows of central's, by a trigger or a row-level policy.",
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
    "TexeraCentralCloserNotRunning": Firing(
        {
            f'central_closer_passes_total{{{CENTRAL}, outcome="failed"}}': "0+6x40",
            f'central_closer_passes_total{{{CENTRAL}, outcome="idle"}}': "7x40",
        },
        "Orphaned runs are not closed.",
    ),
    "TexeraCentralCloserNotRunning while renewals fail": Firing(
        {f"central_uninterrupted_seconds{{{CENTRAL}}}": "0 60 " * 20},
        "Orphaned runs are not closed.",
    ),
    "TexeraLiveRunsClosed": Firing(
        {f'central_lost_leases_total{{{CENTRAL}, reason="closed"}}': AGAIN},
        "Runs were closed as FAILED although their sidecar is running.",
    ),
    "TexeraLiveRunsClosed for the first time": Firing(
        YOUNG | {f'central_lost_leases_total{{{NEW_CENTRAL}, reason="closed"}}': FIRST},
        "Runs were closed as FAILED although their sidecar is running.",
    ),
    "TexeraWritesRefused": Firing(
        {f'central_refusals_total{{{CENTRAL}, slug="uri-conflict"}}': "7x25 8x15"},
        "Writes are refused: uri-conflict.",
        {"slug": "uri-conflict"},
    ),
    "TexeraWritesRefused for the first time": Firing(
        YOUNG | {f'central_refusals_total{{{NEW_CENTRAL}, slug="not-bound"}}': FIRST},
        "Writes are refused: not-bound.",
        {"slug": "not-bound"},
    ),
    "TexeraWritesNotDelivered": Firing(
        {OLDEST: "0x20 0+60x20"},
        "A write has waited for 9m 0s and is not in the database.",
        inhibiting=CENTRAL_DOWN,
    ),
    "TexeraDeliverySlow": Firing(
        {WITHIN_10_S: "0+500x40"},
        "16.81% of the batches are committed later than after 10 s.",
        inhibiting=DATABASE_DOWN,
    ),
    "TexeraSidecarsCutOff": Firing(
        {f"sidecar_central_reachable{{{SIDECAR}}}": "1x10 0x30"},
        "33.33% of the sidecars cannot reach central, which works.",
        inhibiting=CENTRAL_DOWN,
    ),
    "TexeraSidecarsNotScraped": Firing(
        {f"up{{{SIDECAR}}}": "1x15 0x25"}, "1 sidecars cannot be scraped."
    ),
    "TexeraSpoolFilling": Firing(
        {f"sidecar_spool_used_ratio{{{SIDECAR}}}": "0.75x40"}, "A spool is 75% full."
    ),
    "TexeraSpoolRefusesWrites": Firing(
        {
            f"sidecar_spool_full{{{SIDECAR}}}": AGAIN,
            f"sidecar_spool_unavailable{{{OTHERS[0]}}}": AGAIN,
        },
        "2 sidecars refuse writes: the spool is full, or its volume cannot be used.",
    ),
    "TexeraLeasesAtRisk": Firing(
        {f"sidecar_renewal_age_seconds{{{SIDECAR}}}": "20x25 60x15"},
        "1 sidecars have not renewed the leases of open runs for half a lease.",
        inhibiting=DATABASE_DOWN,
    ),
    "TexeraWritesMayBeLost": Firing(
        {f"sidecar_spool_quarantined_entries_total{{{SIDECAR}}}": "0x25 2x15"},
        "Acknowledged writes are damaged in a spool, or gone from the database.",
    ),
    "TexeraWritesMayBeLost for the first time": Firing(
        {f"sidecar_forgotten_batches_total{{{NEW_SIDECAR}}}": FIRST},
        "Acknowledged writes are damaged in a spool, or gone from the database.",
    ),
    "TexeraTaskFailing": Firing(
        {f'central_task_restarts_total{{{CENTRAL}, task="closer"}}': "2x25 3x15"},
        "The task closer fails and is restarted.",
        {"task": "closer"},
    ),
    "TexeraTaskFailing for the first time": Firing(
        YOUNG | {f'sidecar_task_restarts_total{{{NEW_SIDECAR}, task="delivery"}}': FIRST},
        "The task delivery fails and is restarted.",
        {"task": "delivery"},
    ),
}
"""By the alert's name; a word more tells two cases of one alert apart."""
