"""The dashboard of the fleet: central, and all sidecars together.

What must be red while central is down has a value then, from `up`.
"""

from dev.kube.dashboards import Dashboard, Panel, Row, quantile, quantiles, rate

NO_CENTRAL = "No data: no replica of central is scraped."
NO_SIDECAR = "No data: no sidecar is scraped."

C = 'namespace=~"$central"'
S = 'namespace=~"$pool"'
CENTRAL_UP = f'up{{{C}, job=~".*-central"}}'
SIDECARS_UP = f'up{{{S}, job=~".*-sidecars"}}'
CALLS = f'central_requests_total{{{C}, route!="none"'


FAILED_CALLS = f'{CALLS}, outcome="failed"}}'
FAILING = (
    f"absent({CENTRAL_UP} == 1) or {rate(FAILED_CALLS)} / ({rate(CALLS + '}')} > 0) or vector(0)"
)

FLEET = Dashboard(
    "texera-cu-sidecar-fleet",
    "Texera execution metadata: fleet",
    (
        Row(
            "Now",
            (
                Panel(
                    "Replicas of central",
                    {"": f"count({CENTRAL_UP} == 1) or vector(0)"},
                    "Replicas that are scraped. Red: none, see TexeraCentralDown.",
                    "No data: Prometheus itself does not respond.",
                    is_stat=True,
                    red_below=1,
                ),
                Panel(
                    "Calls failing at central",
                    {"": FAILING},
                    "Share of 5xx, probes of health left out; 100 % while central is not scraped.",
                    "No data: Prometheus itself does not respond.",
                    "percentunit",
                    is_stat=True,
                    red_from=0.05,
                ),
                Panel(
                    "Sidecars cut off",
                    {"": f"1 - avg(sidecar_central_reachable{{{S}}})"},
                    "Share whose own probe of central fails.",
                    NO_SIDECAR,
                    "percentunit",
                    is_stat=True,
                    red_from=0.1,
                ),
                Panel(
                    "Oldest undelivered write",
                    {"": f"max(sidecar_spool_oldest_entry_age_seconds{{{S}}})"},
                    "Lost if its pod is deleted now. Seconds are normal.",
                    NO_SIDECAR,
                    "s",
                    is_stat=True,
                    red_from=120,
                ),
                Panel(
                    "Writes waiting",
                    {"": f"sum(sidecar_spool_entries{{{S}}})"},
                    "In all spools. A few are normal between batches.",
                    NO_SIDECAR,
                    is_stat=True,
                ),
                Panel(
                    "Sidecars not scraped",
                    {"": f"count({SIDECARS_UP} == 0) or vector(0)"},
                    "Of these nothing else is known here. Pods that have ended do not count.",
                    "No data: Prometheus itself does not respond.",
                    is_stat=True,
                    red_from=1,
                ),
            ),
        ),
        Row(
            "Delivery",
            (
                Panel(
                    "Writes by state",
                    {"{{state}}": rate(f"sidecar_writes_total{{{S}}}", "state")},
                    "Durable, then committed or refused. More of the first: a backlog grows.",
                    NO_SIDECAR,
                    "wps",
                ),
                Panel(
                    "From durable to committed",
                    quantiles(f"sidecar_delivery_seconds_bucket{{{S}}}"),
                    "Of each batch's first write, up to an hour; empty in between: none delivered.",
                    NO_SIDECAR,
                    "s",
                ),
                Panel(
                    "Oldest undelivered write by unit",
                    {
                        "{{pod}}": "topk(10, max by (pod) ("
                        f"sidecar_spool_oldest_entry_age_seconds{{{S}}}))"
                    },
                    "The ten oldest. A line that rises steadily is a unit that delivers nothing.",
                    NO_SIDECAR,
                    "s",
                    links_to_unit=True,
                ),
                Panel(
                    "Batches by outcome",
                    {"{{outcome}}": rate(f"sidecar_batches_total{{{S}}}", "outcome")},
                    "Parked: central refuses whole batches, nothing is dropped.",
                    NO_SIDECAR,
                    "ops",
                ),
                Panel(
                    "Fullest spools",
                    {"{{pod}}": f"topk(10, sidecar_spool_used_ratio{{{S}}})"},
                    "From seven eighths on a spool accepts terminal statuses only.",
                    NO_SIDECAR,
                    "percentunit",
                    links_to_unit=True,
                ),
                Panel(
                    "Refused writes",
                    {"{{slug}}": rate(f"sidecar_refused_writes_total{{{S}}}", "slug")},
                    "By problem, see docs/problems.md; late is ordinary.",
                    NO_SIDECAR,
                    "ops",
                ),
            ),
        ),
        Row(
            "Reads, and the way to central",
            (
                Panel(
                    "Reads by cache result",
                    {"{{result}}": rate(f"sidecar_cache_requests_total{{{S}}}", "result")},
                    "Stale: shown while central did not answer in time.",
                    NO_SIDECAR,
                    "reqps",
                ),
                Panel(
                    "Why reads were no hits",
                    {
                        "{{result}}: {{reason}}": rate(
                            f'sidecar_cache_requests_total{{{S}, reason!=""}}', "result, reason"
                        )
                    },
                    "no-grant: the token has not been seen with this execution yet.",
                    NO_SIDECAR,
                    "reqps",
                ),
                Panel(
                    "Calls to central by outcome",
                    {"{{outcome}}": rate(f"sidecar_upstream_requests_total{{{S}}}", "outcome")},
                    "Probes included, one in five seconds for each sidecar.",
                    NO_SIDECAR,
                    "reqps",
                ),
                Panel(
                    "Slowest calls to central (p99)",
                    {
                        "{{call}}": "topk(5, "
                        + quantile(0.99, f"sidecar_upstream_request_seconds_bucket{{{S}}}", "call")
                        + ")"
                    },
                    "As the sidecars see them, with the network; gaps: no such call.",
                    NO_SIDECAR,
                    "s",
                ),
                Panel(
                    "Local API by outcome",
                    {"{{outcome}}": rate(f"sidecar_requests_total{{{S}}}", "outcome")},
                    "What computing units get; failed is a 5xx.",
                    NO_SIDECAR,
                    "reqps",
                ),
                Panel(
                    "Time since the last renewal",
                    {"{{pod}}": f"topk(10, sidecar_renewal_age_seconds{{{S}}})"},
                    "A lease lapses after 90 s; 0 without open runs.",
                    NO_SIDECAR,
                    "s",
                    links_to_unit=True,
                ),
            ),
        ),
        Row(
            "Central",
            (
                Panel(
                    "Calls by outcome",
                    {"{{outcome}}": rate(f"{CALLS}}}", "outcome")},
                    "By route in central_requests_total; failed is a 5xx.",
                    NO_CENTRAL,
                    "reqps",
                ),
                Panel(
                    "Problems",
                    {"{{slug}}": f"topk(10, {rate(f'central_problems_total{{{C}}}', 'slug')})"},
                    "Responses that are problems, by type, see docs/problems.md.",
                    NO_CENTRAL,
                    "ops",
                ),
                Panel(
                    "Slowest routes (p99)",
                    {
                        "{{route}}": "topk(5, "
                        + quantile(0.99, f"central_request_seconds_bucket{{{C}}}", "route")
                        + ")"
                    },
                    "From the request's head to the response; gaps: no such call.",
                    NO_CENTRAL,
                    "s",
                ),
                Panel(
                    "Slowest statements (p99)",
                    {
                        "{{statement}}": "topk(5, "
                        + quantile(0.99, f"central_statement_seconds_bucket{{{C}}}", "statement")
                        + ")"
                    },
                    "Statements named lock_ wait for other sessions' locks.",
                    NO_CENTRAL,
                    "s",
                ),
                Panel(
                    "Waits for a connection, and transactions (p99)",
                    {
                        "pool": quantile(0.99, f"central_pool_wait_seconds_bucket{{{C}}}"),
                        "transaction": quantile(0.99, f"central_transaction_seconds_bucket{{{C}}}"),
                    },
                    "A wait for the pool beside short statements: too few connections.",
                    NO_CENTRAL,
                    "s",
                ),
                Panel(
                    "Database connections",
                    {"{{state}}": f"sum by (state) (central_database_connections{{{C}}})"},
                    "Of all replicas.",
                    NO_CENTRAL,
                ),
                Panel(
                    "Database errors",
                    {"{{reason}}": rate(f"central_database_errors_total{{{C}}}", "reason")},
                    "isolated: single rows, by a trigger or a policy; the log names them.",
                    NO_CENTRAL,
                    "ops",
                ),
                Panel(
                    "Entries by outcome",
                    {"{{outcome}}": rate(f"central_entries_total{{{C}}}", "outcome")},
                    "Deferred: the row is locked by another session, tried again at once.",
                    NO_CENTRAL,
                    "wps",
                ),
                Panel(
                    "Runs closed",
                    {"{{reason}}": rate(f"central_closed_executions_total{{{C}}}", "reason")},
                    "As FAILED, provisionally, by reason.",
                    NO_CENTRAL,
                    "ops",
                ),
                Panel(
                    "Leases",
                    {
                        "renewed": rate(f"central_renewed_leases_total{{{C}}}"),
                        "lost: {{reason}}": rate(f"central_lost_leases_total{{{C}}}", "reason"),
                    },
                    "closed: the run was failed while its sidecar runs.",
                    NO_CENTRAL,
                    "ops",
                ),
                Panel(
                    "Passes of the closer",
                    {
                        "{{outcome}}": rate(f"central_closer_passes_total{{{C}}}", "outcome"),
                        "withheld runs": f"max(central_orphans_withheld{{{C}}})",
                    },
                    "locked: another replica works. None at all: orphaned runs stay open.",
                    NO_CENTRAL,
                ),
                Panel(
                    "Credentials refused, calls over a limit",
                    {
                        "{{kind}}: {{result}}": rate(
                            f'central_credentials_total{{{C}, result!~"accepted|cached"}}',
                            "kind, result",
                        ),
                        "limit: {{who}}, {{what}}": rate(
                            f"central_rate_limited_calls_total{{{C}}}", "who, what"
                        ),
                    },
                    "Which limits there are is in docs/operations.md.",
                    NO_CENTRAL,
                    "ops",
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel(
                    "Event loop lag (p99)",
                    {
                        "central": quantile(0.99, f"central_event_loop_lag_seconds_bucket{{{C}}}"),
                        "sidecars": quantile(0.99, f"sidecar_event_loop_lag_seconds_bucket{{{S}}}"),
                    },
                    "More than 0.1 s: the process does not get its CPU.",
                    "No data: neither service is scraped.",
                    "s",
                ),
                Panel(
                    "Resident memory",
                    {
                        "{{pod}}": f"process_resident_memory_bytes{{{C}}}",
                        "sidecar {{pod}}": f"topk(10, process_resident_memory_bytes{{{S}}})",
                    },
                    "The ten largest sidecars; other processes of these namespaces show too.",
                    "No data: neither service is scraped.",
                    "bytes",
                ),
                Panel(
                    "Versions",
                    {
                        "central {{version}}": f"count by (version) (central_build_info{{{C}}})",
                        "sidecar {{version}}": f"count by (version) (sidecar_build_info{{{S}}})",
                    },
                    "Processes of each release; sidecars change with their pods only.",
                    "No data: neither service is scraped.",
                ),
            ),
        ),
    ),
    {
        "central": "label_values(central_build_info, namespace)",
        "pool": "label_values(sidecar_build_info, namespace)",
    },
)
