"""The dashboard of one computing unit's sidecar."""

from collections.abc import Mapping
from typing import Any

from dev.kube.dashboards import UNIT_UID, Dashboard, Panel, Row, quantile, quantiles, rate

NOT_THIS_SIDECAR = "No data: this sidecar is not scraped (any more)."
U = 'namespace=~"$pool", pod="$pod"'


def _now(title: str, expression: str, description: str, **more: Any) -> Panel:
    return Panel(title, {"": expression}, description, NOT_THIS_SIDECAR, is_stat=True, **more)


def _graph(title: str, queries: Mapping[str, str], description: str, unit: str) -> Panel:
    return Panel(title, queries, description, NOT_THIS_SIDECAR, unit)


UNIT = Dashboard(
    UNIT_UID,
    "Texera execution metadata: one computing unit",
    (
        Row(
            "Now",
            (
                _now(
                    "Central",
                    f"sidecar_central_reachable{{{U}}}",
                    "1 while this sidecar's own probe reaches central; red is 0.",
                    red_below=1,
                ),
                _now(
                    "Computing unit",
                    f"sidecar_computing_unit_up{{{U}}}",
                    "1 while it passes its health check; at 0 its leases lapse.",
                    red_below=1,
                ),
                _now(
                    "Oldest undelivered write",
                    f"max(sidecar_spool_oldest_entry_age_seconds{{{U}}})",
                    "Lost if the pod is deleted now. Seconds are normal.",
                    unit="s",
                    red_from=120,
                ),
                _now(
                    "Spool used",
                    f"sidecar_spool_used_ratio{{{U}}}",
                    "From seven eighths on terminal statuses only.",
                    unit="percentunit",
                    red_from=0.7,
                ),
                _now(
                    "Refusing writes, or parked",
                    f"sum(sidecar_spool_full{{{U}}}) + sum(sidecar_spool_unavailable{{{U}}})"
                    f" + sum(sidecar_delivery_parked{{{U}}})",
                    "Above 0: the spool is full or unusable, or delivery is parked (/status).",
                    red_from=1,
                ),
                _now(
                    "Time since the last renewal",
                    f"sidecar_renewal_age_seconds{{{U}}}",
                    "0 without open runs; a lease lapses after 90 s.",
                    unit="s",
                    red_from=45,
                ),
            ),
        ),
        Row(
            "Writes",
            (
                _graph(
                    "Acknowledgement and sync",
                    {
                        "acknowledged p50": quantile(
                            0.5, f"sidecar_acknowledgement_seconds_bucket{{{U}}}"
                        ),
                        "acknowledged p99": quantile(
                            0.99, f"sidecar_acknowledgement_seconds_bucket{{{U}}}"
                        ),
                        "sync p99": quantile(0.99, f"sidecar_spool_sync_seconds_bucket{{{U}}}"),
                    },
                    "A slow sync is the volume's. Gaps: no write.",
                    "s",
                ),
                _graph(
                    "From durable to committed",
                    quantiles(f"sidecar_delivery_seconds_bucket{{{U}}}"),
                    "Of each batch's first write, up to an hour. Gaps: none delivered.",
                    "s",
                ),
                _graph(
                    "Waiting writes by priority",
                    {"{{priority}}": f"sum by (priority) (sidecar_spool_entries{{{U}}})"},
                    "Terminal statuses go first.",
                    "short",
                ),
                _graph(
                    "Writes by operation and state",
                    {"{{op}} {{state}}": rate(f"sidecar_writes_total{{{U}}}", "op, state")},
                    "Durable, then committed or refused.",
                    "wps",
                ),
                _graph(
                    "Batches by outcome",
                    {"{{outcome}}": rate(f"sidecar_batches_total{{{U}}}", "outcome")},
                    "Delivered is the only one that empties the spool.",
                    "ops",
                ),
                _graph(
                    "Refused writes",
                    {"{{slug}}": rate(f"sidecar_refused_writes_total{{{U}}}", "slug")},
                    "By problem, see docs/problems.md; late is ordinary.",
                    "ops",
                ),
            ),
        ),
        Row(
            "Calls",
            (
                _graph(
                    "Local API by outcome",
                    {"{{outcome}}": rate(f"sidecar_requests_total{{{U}}}", "outcome")},
                    "By route in sidecar_requests_total.",
                    "reqps",
                ),
                _graph(
                    "Slowest routes (p99)",
                    {
                        "{{method}} {{route}}": "topk(5, "
                        + quantile(0.99, f"sidecar_request_seconds_bucket{{{U}}}", "method, route")
                        + ")"
                    },
                    "Long polls wait on purpose. Gaps: no such call.",
                    "s",
                ),
                _graph(
                    "Problems",
                    {"{{slug}}": f"topk(10, {rate(f'sidecar_problems_total{{{U}}}', 'slug')})"},
                    "Responses to the unit that are problems, by type.",
                    "ops",
                ),
                _graph(
                    "Reads by cache result",
                    {
                        "{{result}} {{reason}}": rate(
                            f"sidecar_cache_requests_total{{{U}}}", "result, reason"
                        )
                    },
                    "And why they were no hits.",
                    "reqps",
                ),
                _graph(
                    "Calls to central",
                    {
                        "{{call}} {{outcome}}": "topk(10, "
                        + rate(f"sidecar_upstream_requests_total{{{U}}}", "call, outcome")
                        + ")"
                    },
                    "health is the probe's, once in five seconds.",
                    "reqps",
                ),
                _graph(
                    "Calls to central (p99)",
                    {
                        "{{call}}": "topk(5, "
                        + quantile(0.99, f"sidecar_upstream_request_seconds_bucket{{{U}}}", "call")
                        + ")"
                    },
                    "With the network. Gaps: no such call.",
                    "s",
                ),
            ),
        ),
        Row(
            "Process",
            (
                _graph(
                    "Memory",
                    {
                        "resident": f"process_resident_memory_bytes{{{U}}}",
                        "cache": f"sidecar_cache_bytes{{{U}}}",
                        "spool (on disk)": f"sidecar_spool_bytes{{{U}}}",
                    },
                    "The limit is the container's.",
                    "bytes",
                ),
                _graph(
                    "CPU, and lag of the event loop (p99)",
                    {
                        "CPU": f"rate(process_cpu_seconds_total{{{U}}}[$__rate_interval])",
                        "lag": quantile(0.99, f"sidecar_event_loop_lag_seconds_bucket{{{U}}}"),
                    },
                    "A lag of more than 0.1 s: the process does not get its CPU.",
                    "s",
                ),
                _graph(
                    "Task restarts, limits, dropped connections",
                    {
                        "{{task}}": rate(f"sidecar_task_restarts_total{{{U}}}", "task"),
                        "limit: {{limit}}": rate(
                            f"sidecar_rate_limited_calls_total{{{U}}}", "limit"
                        ),
                        "connection: {{reason}}": rate(
                            f"sidecar_connections_dropped_total{{{U}}}", "reason"
                        ),
                    },
                    "All 0 in ordinary operation.",
                    "ops",
                ),
            ),
        ),
    ),
    {
        "pool": "label_values(sidecar_build_info, namespace)",
        "pod": 'label_values(sidecar_build_info{namespace=~"$pool"}, pod)',
    },
)
