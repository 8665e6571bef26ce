"""What is generated is up to date, and the chart knows every setting of the two services."""

import json
import re
import tomllib

import pytest
import yaml

from dev import image
from dev.kube import chart_files
from tests.chart.rendering import CHART, ROOT, Chart, environment


def test_every_value_has_a_comment() -> None:
    assert list(chart_files.read_values((CHART / "values.yaml").read_text()))
    with pytest.raises(ValueError, match=r"line 3: a\.b has no comment"):
        list(chart_files.read_values("# Why.\na:\n  b: 1\n"))


def test_every_value_has_a_schema_and_the_reverse() -> None:
    def keys(values: object, path: str = "") -> set[str]:
        if not isinstance(values, dict):
            return set()
        below = [keys(value, f"{path}.{key}") for key, value in values.items()]
        return {f"{path}.{key}" for key in values}.union(*below)

    def properties(schema: dict[str, object], path: str = "") -> set[str]:
        found = schema.get("properties", {})
        assert isinstance(found, dict)
        below = [properties(value, f"{path}.{key}") for key, value in found.items()]
        return {f"{path}.{key}" for key in found}.union(*below)

    values = keys(yaml.safe_load((CHART / "values.yaml").read_text()))
    schema = properties(json.loads((CHART / "values.schema.json").read_text()))

    free = re.compile(
        r"\.(injection\.env|monitoring\.dashboard\.labels|central\.resources|migration\.resources)\."
    )
    assert {key for key in values if not free.match(key)} - schema == set()
    assert schema - values == {".global", ".central.settings.jwtAlgorithms"}


@pytest.mark.parametrize("service", chart_files.SERVICES)
def test_every_setting_can_be_set_or_is_the_charts_own(chart: Chart, service: str) -> None:
    settings = chart_files.read_settings(service)
    free = [s for s in settings if s.name not in chart_files.BY_THE_CHART]
    # Values that fit every rule of the render, and one that shows through for the others.
    fitting = {"SPOOL_MAX_BYTES": 1 << 20, "CACHE_MAX_BYTES": 1 << 20, "JWT_ALGORITHMS": "HS512"}
    fitting |= {"LOG_LEVEL": "error", "POOL_MIN_SIZE": 1, "POOL_MAX_SIZE": 2, "DRAIN_DELAY_S": 1}
    fitting |= {"DATABASE_TIMEOUT_S": 1, "DRAIN_TIMEOUT_S": 2}
    fitting |= {"LEASE_S": 90, "LEASE_RENEW_S": 20, "CU_HEALTH": "127.0.0.1:1"}
    fitting |= {"FAIL_RUNS_ON_CU_RESTART": True}
    values = {s.key: fitting.get(s.name.partition("_")[2], 77) for s in free}

    objects = chart.render("injection-none", **{service: {"settings": values}})

    if service == "central":
        (container,) = objects.one("Deployment")["spec"]["template"]["spec"]["containers"]
    else:
        fragment = yaml.safe_load(objects.one("ConfigMap", "pod-fragment")["data"]["pod.yaml"])
        (container,) = fragment["spec"]["initContainers"]
    given = environment(container)
    assert len(free) > 5
    expected = {s.name: values[s.key] for s in free}
    assert {s.name: given.get(s.name) for s in free} == {
        name: "true" if value is True else str(value) for name, value in expected.items()
    }


def test_chart_and_program_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert chart["appVersion"] == chart["version"] == project


def test_the_chart_names_the_images_that_the_dockerfile_makes() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    for target in image.SERVICES:
        assert values[target]["image"]["repository"] == image.repository(target)
    assert values["sidecar"]["runAsUser"] == image.UID
