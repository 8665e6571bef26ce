"""What the chart gives the two services is what they take: by their own readers of settings."""

from collections.abc import Mapping
from typing import Any

import pytest

from central.settings import read_migrate_settings, read_settings
from sidecar.settings import Settings
from tests.chart.rendering import FEATURES, Chart, Object, environment

SECRETS = {
    "CENTRAL_DATABASE_URL": "postgresql://cu_metadata_central:secret@postgres:5432/texera_db",
    "CENTRAL_OWNER_DATABASE_URL": "postgresql://texera:secret@postgres:5432/texera_db",
    "CENTRAL_JWT_SECRET": "8a1204762fd6c3a9",
    "CENTRAL_RUN_TOKEN_KEYS": "a:0123456789abcdef0123456789abcdef",
}


def variables(container: Object) -> Mapping[str, str]:
    """As the kubelet would fill them in."""
    given: dict[str, Any] = environment(container)
    return {
        name: SECRETS[name] if isinstance(value, dict) else value for name, value in given.items()
    }


def only_container(item: Object) -> Object:
    (container,) = item["spec"]["template"]["spec"]["containers"]
    found: Object = container
    return found


@pytest.mark.parametrize("feature", FEATURES)
def test_central_takes_its_settings(chart: Chart, feature: str) -> None:
    objects = chart.render(feature)

    settings = read_settings(variables(only_container(objects.one("Deployment"))))
    for job in objects.of("Job"):
        owner = read_migrate_settings(variables(only_container(job))).owner_url
        assert owner == SECRETS["CENTRAL_OWNER_DATABASE_URL"]

    assert settings.database.pool_max_size == 10


@pytest.mark.parametrize("feature", FEATURES)
def test_the_sidecar_takes_its_settings(chart: Chart, feature: str) -> None:
    container = chart.sidecar(feature)

    settings = Settings.from_environment(variables(container))

    assert settings.listen.port == 7070
    assert settings.unix_socket is None
