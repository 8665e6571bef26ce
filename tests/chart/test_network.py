"""NetworkPolicies: who reaches whom."""

import ipaddress
from typing import Any

import pytest

from tests.chart.rendering import CHART, NAMESPACE, POOL, Chart, Object, parsed


def test_network_policies_are_off_by_default(chart: Chart) -> None:
    assert chart.render().of("NetworkPolicy") == []


@pytest.fixture
def units(chart: Chart) -> Object:
    return chart.render("network-policies").one("NetworkPolicy", "computing-units")


def test_computing_units_reach_central_and_dns(units: Object, chart: Chart) -> None:
    central, dns, *_ = units["spec"]["egress"]

    assert units["metadata"]["namespace"] == POOL
    assert units["spec"]["podSelector"] == {"matchLabels": {"type": "computing-unit"}}
    assert units["spec"]["policyTypes"] == ["Egress"]
    (peer,) = central["to"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}
    labels = chart.render().one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    assert [port["port"] for port in central["ports"]] == [7080]  # not the ops listener
    assert {port["protocol"] for port in dns["ports"]} == {"UDP", "TCP"}


def test_a_policy_names_the_pods_port_and_not_the_services(chart: Chart) -> None:
    """A Service's address and port are translated before a policy looks."""
    objects = chart.render("network-policies", central={"service": {"port": 80}})

    (port,) = objects.one("NetworkPolicy", "computing-units")["spec"]["egress"][0]["ports"]
    (container,) = objects.one("Deployment")["spec"]["template"]["spec"]["containers"]
    assert port["port"] in [p["containerPort"] for p in container["ports"] if p["name"] == "api"]


def test_a_unit_that_keeps_its_sql_may_reach_postgres(chart: Chart) -> None:
    """Stripping in steps, as the README says."""
    rule = {"to": [{"podSelector": {}}], "ports": [{"port": 5432}]}
    objects = chart.render(
        injection={"strip": ["AUTH_JWT_SECRET"]},
        networkPolicy={"computingUnits": {"enabled": True, "allow": [rule]}},
    )

    assert rule in objects.one("NetworkPolicy", "computing-units")["spec"]["egress"]


def test_computing_units_do_not_reach_postgres(units: Object) -> None:
    """By port, wherever it is; by address, on no port where it is on a private one."""
    postgres = ipaddress.ip_address("10.20.30.40")

    for rule in units["spec"]["egress"]:
        assert rule["ports"]
        assert 5432 not in [port["port"] for port in rule["ports"]]
        for block in [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]:
            outside = [ipaddress.ip_network(cidr) for cidr in block["except"]]
            assert postgres in ipaddress.ip_network(block["cidr"])
            assert any(postgres in network for network in outside)


def test_central_is_reached_by_computing_units_and_its_scraper(chart: Chart) -> None:
    ingress = chart.render("network-policies").one("NetworkPolicy", "central-ingress")

    api, ops = ingress["spec"]["ingress"]
    units, test = api["from"]
    assert units["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": POOL}
    assert units["podSelector"]["matchLabels"] == {"type": "computing-unit"}
    assert test["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    assert [port["port"] for port in api["ports"]] == ["api"]
    (scraper,) = ops["from"]
    assert scraper["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }
    assert [port["port"] for port in ops["ports"]] == ["ops"]


def test_central_and_the_migration_reach_the_database(chart: Chart) -> None:
    objects = chart.render("network-policies")
    egress = objects.one("NetworkPolicy", "central-egress")["spec"]

    database = egress["egress"][0]
    assert [port["port"] for port in database["ports"]] == [5432]
    for kind in ("Deployment", "Job"):
        labels = objects.one(kind)["spec"]["template"]["metadata"]["labels"]
        assert selects(egress["podSelector"], labels)
    assert not selects(egress["podSelector"], objects.one("Pod")["metadata"]["labels"])


def selects(selector: Any, labels: Any) -> bool:
    (expression,) = selector["matchExpressions"]
    assert expression["operator"] == "In"
    return bool(
        selector["matchLabels"].items() <= labels.items()
        and labels.get(expression["key"]) in expression["values"]
    )


def test_the_example_is_the_one_that_is_tested(chart: Chart) -> None:
    command = [*chart.template, f"--values={CHART / 'examples/network-policies.yaml'}"]

    example = parsed(chart.run(command, None, {}))

    assert example.of("NetworkPolicy") == chart.render("network-policies").of("NetworkPolicy")
