"""The compose file for single-machine Texera: what it gives to whom."""

import re
from typing import Any

import pytest
import yaml

from central.settings import read_migrate_settings, read_settings
from dev import image
from sidecar.settings import Settings
from tests.chart.rendering import ROOT

UNIT = "workflow-runtime-coordinator-service"
FILLED = {
    "METADATA_OWNER_URL": "postgresql://texera:secret@postgres:5432/texera_db",
    "METADATA_ROLE_PASSWORD": "secret",
    "AUTH_JWT_SECRET": "8a1204762fd6c3a9",
}


class Tagged(yaml.SafeLoader):
    """Compose's own tags say how a value is merged; what they hold is kept."""


def overriding(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node)


Tagged.add_constructor("!reset", lambda loader, node: [])
Tagged.add_constructor("!override", overriding)


def interpolated(text: str) -> str:
    """As Compose fills in ${NAME:-default} and ${NAME:?message}."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        return FILLED[name] if name in FILLED or operator == ":?" else rest

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, text)


@pytest.fixture(scope="module")
def services() -> Any:
    text = interpolated((ROOT / "compose/texera.yaml").read_text())
    return yaml.load(text, Tagged)["services"]  # noqa: S506 (a safe loader, with two tags)


def test_the_computing_unit_gets_no_database_credential(services: Any) -> None:
    unit = services[UNIT]

    assert unit["env_file"] == []
    for name in unit["environment"]:
        assert "JDBC" not in name
        assert "CATALOG_POSTGRES" not in name
        assert not name.startswith(("CENTRAL_", "METADATA_"))
    assert unit["environment"]["STORAGE_ICEBERG_CATALOG_TYPE"] == "rest"
    endpoint = unit["environment"]["DASHBOARD_SERVICE_EXECUTION_METADATA_ENDPOINT"]
    assert endpoint.startswith("http://127.0.0.1:7070/")


def test_texeras_env_file_is_replaced() -> None:
    """Without the tags Compose would merge the unit's lists with Texera's own."""
    text = (ROOT / "compose/texera.yaml").read_text()

    unit = text.partition(f"\n  {UNIT}:")[2]
    assert "\n    env_file: !reset []\n" in unit
    assert "\n    environment: !override\n" in unit


def test_the_services_take_their_settings(services: Any) -> None:
    assert read_migrate_settings(services["metadata-migration"]["environment"]).owner_url
    central = read_settings(services["metadata-central"]["environment"])
    sidecar = Settings.from_environment(services["metadata-sidecar"]["environment"])

    assert central.database.url == "postgresql://cu_metadata_central:secret@postgres:5432/texera_db"
    assert sidecar.central_url == f"http://metadata-central:{central.listen.port}"
    assert str(sidecar.listen) == "127.0.0.1:7070"


def test_services_stop_in_order(services: Any) -> None:
    central = read_settings(services["metadata-central"]["environment"])
    sidecar = Settings.from_environment(services["metadata-sidecar"]["environment"])

    for service, drain_s in (
        ("central", central.drain_timeout_s),
        ("sidecar", sidecar.drain_timeout_s),
    ):
        grace_s = int(services[f"metadata-{service}"]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= drain_s + 5


def test_only_the_migration_knows_the_owner(services: Any) -> None:
    knowing = [name for name, s in services.items() if "texera:secret" in str(s)]

    assert knowing == ["metadata-migration"]


def test_the_sidecar_shares_the_units_loopback_and_not_its_volumes(services: Any) -> None:
    sidecar = services["metadata-sidecar"]

    assert sidecar["network_mode"] == f"service:{UNIT}"
    assert sidecar["volumes"] == ["metadata-spool:/var/lib/sidecar"]
    assert "volumes" not in services[UNIT]


def test_services_run_as_in_the_chart(services: Any) -> None:
    for name, target in (
        ("metadata-migration", "central"),
        ("metadata-central", "central"),
        ("metadata-sidecar", "sidecar"),
    ):
        service = services[name]
        assert service["image"].partition(":")[0] == image.repository(target)
        assert service["user"] == f"{image.UID}:{image.UID}"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
