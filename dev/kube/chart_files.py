"""`make chart` writes the generated files of the chart; a test compares them.

README.md from README.in.md, values.yaml's comments and the settings' names of
docs/operations.md; in values.schema.json the names allowed under `settings`; the two dashboards.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from dev.kube.dashboards import render
from dev.kube.fleet_dashboard import FLEET
from dev.kube.unit_dashboard import UNIT

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm"
SERVICES = ("central", "sidecar")

BY_THE_CHART: Mapping[str, str] = {
    "CENTRAL_DATABASE_URL": "from the Secret `central.database.existingSecret`",
    "CENTRAL_OWNER_DATABASE_URL": "from the Secret `migration.ownerSecret`",
    "CENTRAL_JWT_SECRET": "from the Secret `central.jwt.existingSecret`",
    "CENTRAL_RUN_TOKEN_KEYS": "from the Secret `central.runTokens.existingSecret`",
    "CENTRAL_JWT_JWKS": "`central.jwt.jwks`",
    "CENTRAL_TLS_CERT_FILE": "the mounted Secret `tls.secretName`",
    "CENTRAL_TLS_KEY_FILE": "the mounted Secret `tls.secretName`",
    "CENTRAL_TLS_CLIENT_CA_FILE": "`ca.crt` of the mounted Secret `tls.secretName`",
    "CENTRAL_TLS_CLIENT_AUTH": "`tls.clients.mode`",
    "SIDECAR_CENTRAL_CA_FILE": "the CA of `tls.mode`, or `tls.ca` or `tls.caConfigMap`",
    "SIDECAR_TLS_CERT_FILE": "the mounted Secret or volume of `tls.clients`",
    "SIDECAR_TLS_KEY_FILE": "the mounted Secret or volume of `tls.clients`",
    "CENTRAL_LISTEN": "fixed: 7080, which the Service gives `central.service.port`",
    "CENTRAL_OPS_LISTEN": "fixed: 7081, which the Service gives `central.service.opsPort`",
    "CENTRAL_ASSERTION_AUDIENCE": "`assertionAudience`",
    "SIDECAR_ASSERTION_AUDIENCE": "`assertionAudience`",
    "CENTRAL_WORKLOAD_IDENTITY": "`workloadIdentity.mode`",
    "CENTRAL_WORKLOAD_JWKS": "`workloadIdentity.jwks`",
    "CENTRAL_WORKLOAD_JWKS_TOKEN_FILE": "a token of central's own, where the cluster is asked",
    "CENTRAL_JWKS_CA_FILE": "the cluster's CA, where the cluster is asked",
    "CENTRAL_WORKLOAD_AUDIENCE": "`assertionAudience`",
    "CENTRAL_WORKLOAD_NAMESPACE": "`poolNamespace`",
    "SIDECAR_WORKLOAD_TOKEN_FILE": "where the pod's token is mounted",
    "SIDECAR_CENTRAL_URL": "`sidecar.centralUrl`, or the chart's Service",
    "SIDECAR_LISTEN": "`sidecar.port`, on 127.0.0.1",
    "SIDECAR_OPS_LISTEN": "`sidecar.opsPort`, on the pod's address",
    "SIDECAR_SPOOL_DIR": "fixed: where the spool's volume is mounted",
    "SIDECAR_UNIX_SOCKET": "fixed: none, the computing unit shares no volume with the sidecar",
    "SIDECAR_UNIX_SOCKET_MODE": "fixed: no unix socket",
    "SIDECAR_UNIX_SOCKET_GROUP": "fixed: no unix socket",
    "SIDECAR_UNIX_SOCKET_UIDS": "fixed: no unix socket",
}
"""Settings that the chart sets itself, and from what."""


@dataclass(frozen=True)
class Setting:
    """A setting that docs/operations.md describes."""

    name: str

    @property
    def key(self) -> str:
        """POOL_MAX_SIZE of a service is poolMaxSize in its `settings`."""
        first, *rest = self.name.partition("_")[2].lower().split("_")
        return first + "".join(word.capitalize() for word in rest)


def read_settings(service: str) -> list[Setting]:
    page = (ROOT / "docs/operations.md").read_text()
    row = re.compile(rf"^\| `({service.upper()}_[A-Z0-9_]+)` \|", re.MULTILINE)
    return [Setting(name) for name in row.findall(page)]


@dataclass(frozen=True)
class Value:
    """A key of values.yaml with the comment above it; `default` is None if it has keys below."""

    key: str
    default: str | None
    comment: str


def read_values(text: str) -> Iterator[Value]:
    """Keys in order. Raises ValueError for a key that has no comment above it."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        stripped = line.strip()
        if not stripped:
            comment = []
        elif stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
        else:
            indent = len(line) - len(line.lstrip())
            name, _, rest = stripped.partition(":")
            path = [*(part for part in path if part[0] < indent), (indent, name)]
            key = ".".join(name for _, name in path)
            if not comment:
                raise ValueError(f"values.yaml, line {number + 1}: {key} has no comment")
            yield Value(key, _shown(rest), " ".join(comment))
            comment = []


def _shown(default: str) -> str | None:
    return json.dumps(yaml.safe_load(default)) if default else None


def values_table() -> str:
    rows = [
        f"| **`{value.key}`** | | **{value.comment}** |"
        if value.default is None
        else f"| `{value.key}` | `{value.default}` | {value.comment} |"
        for value in read_values((CHART / "values.yaml").read_text())
    ]
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *rows])


def settings_table(service: str) -> str:
    """The settings that `settings` accepts, then those that the chart sets itself."""
    rows = []
    for setting in sorted(read_settings(service), key=lambda s: s.name in BY_THE_CHART):
        if setting.name in BY_THE_CHART:
            rows.append(f"| by the chart: {BY_THE_CHART[setting.name]} | `{setting.name}` |")
        else:
            rows.append(f"| `{setting.key}` | `{setting.name}` |")
    header = f"| `{service}.settings.` | setting |"
    return "\n".join([header, "|---|---|", *rows])


def readme() -> str:
    text = (CHART / "README.in.md").read_text()
    tables = {"values": values_table()}
    tables |= {f"{service}.settings": settings_table(service) for service in SERVICES}
    for name, table in tables.items():
        marker = f"<!-- {name} -->"
        if marker not in text:
            raise ValueError(f"README.in.md has no {marker}")
        text = text.replace(marker, table)
    return text


def schema() -> str:
    document = json.loads((CHART / "values.schema.json").read_text())
    for service in SERVICES:
        settings = document["properties"][service]["properties"]["settings"]
        settings["propertyNames"]["enum"] = sorted(
            setting.key for setting in read_settings(service) if setting.name not in BY_THE_CHART
        )
    return json.dumps(document, indent=2) + "\n"


def generated() -> Mapping[Path, str]:
    """The generated files and their contents."""
    return {
        CHART / "README.md": readme(),
        CHART / "values.schema.json": schema(),
        CHART / "files/fleet.json": render(FLEET),
        CHART / "files/computing-unit.json": render(UNIT),
    }


def main() -> None:
    for path, text in generated().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
