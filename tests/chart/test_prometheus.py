"""A real Prometheus scrapes a running system: every expression of panels and rules returns data."""

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from dev.computing_unit import run_workflow
from dev.kube import tools
from dev.kube.tools import ToolMissing
from dev.polling import wait_until
from dev.run_plan import plan_run
from dev.sidecar_backend import SidecarBackend
from dev.texera import SAMPLE_WORKFLOW
from dev.workflow_file import read_workflow
from tests.chart.alerts import SCRAPED_CENTRAL, SCRAPED_POD
from tests.chart.promql import selectors
from tests.chart.rendering import CHART, Chart
from tests.databases import free_port, open_folder
from tests.systems import Up, running_system

PATIENCE_S = 60.0
SCRAPE_S = 1
WORD_MAX_AGE_S = 8.5
"""Of a sidecar's word on central: five seconds and their jitter, and a probe that times out."""
TRACE = "0af7651916cd43dd8448eb211c80319c"
VARIABLES = {
    "$__rate_interval": "1m",
    "$central": ".*",
    "$pool": ".*",
    "$pod": SCRAPED_POD["pod"],
}
MOVED = (
    'sidecar_writes_total{state="committed"}',
    'sidecar_batches_total{outcome="delivered"}',
    'sidecar_cache_requests_total{result="hit"}',
    'sidecar_upstream_requests_total{call="health", outcome="ok"}',
    "sidecar_acknowledgement_seconds_count",
    "sidecar_delivery_seconds_count",
    "sidecar_spool_sync_seconds_count",
    'sidecar_request_seconds_count{route="/v1/executions"}',
    'central_requests_total{route="/v1/batches", outcome="ok"}',
    'central_entries_total{outcome="applied"}',
    "central_statement_seconds_count",
    "central_transaction_seconds_count",
    "central_pool_wait_seconds_count",
    "central_event_loop_lag_seconds_count",
    "process_cpu_seconds_total",
)
"""What a replayed workflow moves."""


def fetch(url: str, **headers: str) -> bytes:
    """The body of a success."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (ours, on loopback)
    with urllib.request.urlopen(request) as response:  # noqa: S310 (likewise)
        body: bytes = response.read()
    return body


@dataclass(frozen=True)
class Prometheus:
    url: str

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        document = json.loads(fetch(f"{self.url}/api/v1/{path}?{query}"))
        assert document["status"] == "success", document
        return document["data"]

    def query(self, expression: str) -> list[float]:
        found = self.get("query", query=expression)["result"]
        return [float(series["value"][1]) for series in found]


@pytest.fixture(scope="module")
def system() -> Iterator[Up]:
    with open_folder() as folder, running_system(folder) as up:
        yield up


@pytest.fixture(scope="module")
def rules(chart: Chart) -> Any:
    return chart.render("monitoring").one("PrometheusRule")["spec"]


@pytest.fixture(scope="module")
def prometheus(system: Up, rules: Any) -> Iterator[Prometheus]:
    """After a workflow has run; it scrapes as the chart's monitors do, more often."""
    try:
        program = tools.debian_program("prometheus", "prometheus")
    except ToolMissing as missing:
        pytest.skip(f"not run: {missing}")
    with open_folder() as folder:
        port = free_port()
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration(system)))
        command = [
            str(program),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            "--log.level=error",
        ]
        with subprocess.Popen(command) as process:
            try:
                server = Prometheus(f"http://127.0.0.1:{port}")
                assert wait_until(lambda: is_scraping(server), PATIENCE_S)
                asyncio.run(run_sample(system))
                read_traced(system)
                settle = 'sidecar_writes_total{state="committed"} > 0'
                assert wait_until(lambda: server.query(settle) != [], PATIENCE_S)
                # A rate needs a second sample after the last of the traffic.
                assert wait_until(lambda: bool(server.query(f"rate({MOVED[0]}[1m]) > 0")), 30)
                yield server
            finally:
                process.terminate()


def configuration(system: Up) -> dict[str, Any]:
    targets = ((SCRAPED_CENTRAL, "central_ops"), (SCRAPED_POD, "sidecar_ops"))
    return {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": labels["job"],
                "static_configs": [
                    {
                        "targets": [urllib.parse.urlsplit(system.ready[role]).netloc],  # type: ignore[literal-required]
                        "labels": {name: labels[name] for name in ("namespace", "pod")},
                    }
                ],
            }
            for labels, role in targets
        ],
    }


def is_scraping(server: Prometheus) -> bool:
    try:
        return server.query("up") == [1, 1]
    except OSError:
        return False


async def run_sample(system: Up) -> None:
    ready = system.ready
    plan = plan_run(read_workflow(SAMPLE_WORKFLOW))
    async with SidecarBackend(ready["sidecar"], ready["users"]["owner"]["token"]) as backend:
        await run_workflow(ready, plan, backend, 0.1)


def read_traced(system: Up) -> None:
    ready = system.ready
    url = f"{ready['sidecar']}/v1/workflows/{ready['workflow_id']}/executions"
    headers = {
        "Authorization": f"Bearer {ready['users']['owner']['token']}",
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    }
    fetch(url, **headers)


def expressions() -> Iterator[tuple[str, str]]:
    """Of every panel, with the variables as they are by default."""
    for name in ("fleet", "computing-unit"):
        dashboard = json.loads((CHART / f"files/{name}.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for variable, value in VARIABLES.items():
                    expression = expression.replace(variable, value)
                yield f"{name}: {panel['title']}", expression


def test_traffic_moves_what_counts_it(prometheus: Prometheus) -> None:
    def still() -> list[str]:
        return [series for series in MOVED if not sum(prometheus.query(series))]

    assert wait_until(lambda: still() == [], PATIENCE_S), still()


def test_every_expression_of_every_panel_returns_data(prometheus: Prometheus) -> None:
    empty = [panel for panel, expression in expressions() if not prometheus.query(expression)]

    assert empty == []


def test_every_rule_is_evaluated_on_series_that_exist(prometheus: Prometheus, rules: Any) -> None:
    groups = prometheus.get("rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    expected = [rule for group in rules["groups"] for rule in group["rules"]]

    assert [rule["health"] for rule in evaluated] == ["ok"] * len(expected)
    missing = {
        selector
        for rule in expected
        for selector in selectors(rule["expr"])
        if not prometheus.query(f"count({selector})")
    }
    assert missing == set()


def test_a_healthy_system_fires_no_alert(prometheus: Prometheus) -> None:
    assert prometheus.query('ALERTS{alertstate="firing"}') == []


@pytest.mark.parametrize("service", ["sidecar", "central"])
def test_requests_with_a_trace_are_exemplars(prometheus: Prometheus, service: str) -> None:
    """Prometheus asks for OpenMetrics by itself. The sidecar passes the trace on to central."""

    def has_trace() -> bool:
        found = prometheus.get(
            "query_exemplars",
            query=f"{service}_request_seconds_bucket",
            start=str(time.time() - 300),
            end=str(time.time() + 1),
        )
        return any(
            e["labels"]["trace_id"] == TRACE for series in found for e in series["exemplars"]
        )

    assert wait_until(has_trace, PATIENCE_S)


@pytest.mark.parametrize("role", ["central_ops", "sidecar_ops"])
def test_promtool_finds_no_fault_in_the_metrics(system: Up, role: str) -> None:
    try:
        promtool = tools.promtool()
    except ToolMissing as missing:
        pytest.skip(f"not run: {missing}")
    text = fetch(f"{system.ready[role]}/metrics")  # type: ignore[literal-required]

    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_an_idle_sidecar_says_within_seconds_whether_central_is_there(
    prometheus: Prometheus, system: Up
) -> None:
    """And the panels that must be red are, although central's own series are gone."""

    def shown(panel: str) -> list[float]:
        found = dict(expressions())
        return prometheus.query(found[panel])

    def is_reachable() -> bool:
        return prometheus.query("sidecar_central_reachable") == [1]

    assert is_reachable()
    os.kill(system.published("central")["pid"], signal.SIGKILL)
    assert wait_until(lambda: not is_reachable(), 3 * WORD_MAX_AGE_S)
    red = [shown("fleet: Replicas of central"), shown("fleet: Calls failing at central")]
    system.restart("central")

    assert wait_until(is_reachable, 3 * WORD_MAX_AGE_S)
    assert red == [[0], [1]]
    (oldest_s,) = prometheus.query("max_over_time(sidecar_central_probe_age_seconds[5m])")
    assert oldest_s < WORD_MAX_AGE_S
