"""Monitors, alerts and dashboard: they name what exists, and fire when they should."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.kube import tools
from dev.kube.tools import ToolMissing
from tests.chart.alerts import AT_MINUTES, FIRING, HEALTHY
from tests.chart.promql import faults
from tests.chart.rendering import CHART, NAMESPACE, POOL, Chart, Objects

PROMTOOL_TIMEOUT_S = 180


@pytest.fixture(scope="session")
def promtool() -> Path:
    try:
        return tools.promtool()
    except ToolMissing as missing:
        pytest.skip(f"not run: {missing}")


@pytest.fixture(scope="session")
def objects(chart: Chart) -> Objects:
    return chart.render("monitoring")


@pytest.fixture(scope="session")
def rules(objects: Objects) -> Any:
    return objects.one("PrometheusRule")["spec"]


def alerts(rules: Any) -> list[Any]:
    return [rule for group in rules["groups"] for rule in group["rules"]]


def test_monitoring_is_off_by_default(chart: Chart) -> None:
    kinds = chart.render().kinds()

    assert kinds.isdisjoint({"ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap"})


def test_central_is_scraped_on_its_ops_port(objects: Objects) -> None:
    monitor = objects.one("ServiceMonitor")
    service = objects.one("Service")

    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["port"] in {p["name"] for p in service["spec"]["ports"]} - {"api"}
    assert (
        monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    )
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_sidecars_are_scraped_by_the_port_they_name(objects: Objects, chart: Chart) -> None:
    monitor = objects.one("PodMonitor")["spec"]

    assert monitor["namespaceSelector"] == {"matchNames": [POOL]}
    assert monitor["selector"] == {"matchLabels": {"type": "computing-unit"}}
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["interval"] == "1m"
    assert endpoint["port"] in {port["name"] for port in chart.sidecar()["ports"]}


def test_alerts_name_metrics_that_exist(rules: Any) -> None:
    for rule in alerts(rules):
        assert faults(rule["expr"]) == [], rule["alert"]


def test_every_alert_names_its_section_of_the_runbooks(rules: Any) -> None:
    for rule in alerts(rules):
        section = f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == section


def test_there_are_few_alerts(rules: Any) -> None:
    assert len(alerts(rules)) < 22


def test_alerts_have_summary_and_description(rules: Any) -> None:
    names = [rule["alert"] for rule in alerts(rules)]

    assert len(names) == len(set(names))
    for rule in alerts(rules):
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}


def test_alerts_select_this_release_only(rules: Any) -> None:
    for rule in alerts(rules):
        selectors = re.findall(r"(?:up|central_\w+|sidecar_\w+|process_\w+)\{[^}]*", rule["expr"])
        assert selectors
        for selector in selectors:
            is_pools = "sidecar_" in selector or POOL in selector
            assert f'namespace="{POOL if is_pools else NAMESPACE}"' in selector


def test_rules_are_valid(promtool: Path, rules: Any, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))

    assert run(promtool, "check", "rules", path) == ""


def test_every_alert_has_its_case(rules: Any) -> None:
    assert {rule["alert"] for rule in alerts(rules)} == set(map(alert_of, FIRING))


def test_normal_operation_fires_no_alert(promtool: Path, rules: Any, tmp_path: Path) -> None:
    silent = {"normal": (HEALTHY, [expectation(alert_of(case)) for case in FIRING])}

    assert objections(promtool, rules, silent, tmp_path) == ""


@pytest.fixture(scope="module")
def outcomes(
    promtool: Path, rules: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What promtool objects to in each case: that it fires as expected, or is inhibited.

    In one run of it: each takes half a second, whatever it has to do.
    """
    by_name = {rule["alert"]: rule for rule in alerts(rules)}
    cases: dict[str, tuple[Mapping[str, str], list[Any]]] = {}
    for case, firing in FIRING.items():
        name = alert_of(case)
        rule = by_name[name]
        expected = {
            "exp_labels": {"severity": rule["labels"]["severity"], **firing.labels},
            "exp_annotations": {**rule["annotations"], "summary": firing.summary},
        }
        series = {**HEALTHY, **firing.series}
        cases[f"{case} fires"] = (series, [expectation(name, expected)])
        if firing.inhibiting:
            inhibited = {**series, **firing.inhibiting}
            cases[f"{case} is inhibited"] = (inhibited, [expectation(name)])
    said = objections(promtool, rules, cases, tmp_path_factory.mktemp("promtool"))
    return {part.partition(",")[0]: part for part in said.split("    name: ")[1:]}


def alert_of(case: str) -> str:
    return case.partition(" ")[0]


@pytest.mark.parametrize("case", [case for case, firing in FIRING.items() if firing.inhibiting])
def test_an_alert_of_the_sidecars_is_inhibited_by_centrals_own(
    outcomes: dict[str, str], case: str
) -> None:
    """One page for one fault. The same series fire it while central is well."""
    assert outcomes.get(f"{case} is inhibited", "") == ""


@pytest.mark.parametrize("name", FIRING)
def test_alert_fires_for_its_condition(outcomes: dict[str, str], name: str) -> None:
    """Its fault over a healthy system; a summary is compared in full, labels included."""
    assert outcomes.get(f"{name} fires", "") == ""


def expectation(name: str, *alerts: Any) -> Any:
    """Exactly these alerts of this name."""
    return {"eval_time": f"{AT_MINUTES}m", "alertname": name, "exp_alerts": list(alerts)}


def objections(
    promtool: Path,
    rules: Any,
    cases: Mapping[str, tuple[Mapping[str, str], list[Any]]],
    folder: Path,
) -> str:
    """What promtool says where the alerts are not those expected of the series; else nothing."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "name": name,
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in series.items()],
                "alert_rule_test": expected,
            }
            for name, (series, expected) in cases.items()
        ],
    }
    path = folder / "tests.yaml"
    path.write_text(yaml.safe_dump(document))
    return run(promtool, "test", "rules", path)


def run(promtool: Path, *arguments: str | Path) -> str:
    """What it printed if it failed; else nothing."""
    done = subprocess.run(
        [promtool, *arguments],
        capture_output=True,
        text=True,
        timeout=PROMTOOL_TIMEOUT_S,
        check=False,
    )
    return done.stdout + done.stderr if done.returncode != 0 else ""


DASHBOARDS = ("fleet", "computing-unit")


def panels_of(name: str) -> list[Any]:
    """The dashboard's panels, its rows left out."""
    dashboard = json.loads((CHART / f"files/{name}.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_dashboards_have_grafanas_label(objects: Objects) -> None:
    config = objects.one("ConfigMap", "dashboard")

    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in config["data"].items()} == {
        f"texera-{name}.json": json.loads((CHART / f"files/{name}.json").read_text())
        for name in DASHBOARDS
    }


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_names_metrics_that_exist(name: str) -> None:
    dashboard = json.loads((CHART / f"files/{name}.json").read_text())

    assert len(panels_of(name)) > 15
    for panel in panels_of(name):
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            assert faults(expression) == [], panel["title"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric = variable["query"].removeprefix("label_values(").rpartition(",")[0]
            assert faults(metric) == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_says_what_no_data_means(name: str) -> None:
    for panel in panels_of(name):
        no_data = panel["fieldConfig"]["defaults"]["noValue"]
        assert no_data.startswith("No data: ")
        assert panel["description"].endswith(f". {no_data}")


def test_the_dashboards_lead_to_each_other() -> None:
    fleet, unit = (json.loads((CHART / f"files/{name}.json").read_text()) for name in DASHBOARDS)
    links = [
        link["url"]
        for panel in panels_of("fleet")
        for link in panel["fieldConfig"]["defaults"].get("links", [])
    ]

    assert links
    assert all(url.startswith(f"/d/{unit['uid']}?var-pod=") for url in links)
    for dashboard in (fleet, unit):
        (link,) = dashboard["links"]
        assert set(link["tags"]) <= set(fleet["tags"]) & set(unit["tags"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    dashboard = json.loads((CHART / f"files/{name}.json").read_text())

    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_check_of_metric_names_detects_unknown_names() -> None:
    assert faults("rate(central_requests_totals[5m])") == [
        "central_requests_totals: no such metric"
    ]
    assert faults('central_requests_total{code="500"}') == ["central_requests_total: no label code"]
    assert faults('central_database_connections{state="inuse"}') == [
        "central_database_connections: no state is inuse"
    ]
    assert faults("sum by (code) (central_requests_total)") == ["no label code to group by"]
    assert faults("histogram_quantile(0.9, sidecar_delivery_seconds_bucket)") == []
    with pytest.raises(ValueError, match="unclosed"):
        faults("sum by (")
