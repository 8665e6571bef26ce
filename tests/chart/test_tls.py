"""TLS between sidecars and central, by each way to come by the certificates."""

import base64
import http.server
import json
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.http.tls import (
    CertificateFiles,
    certificate_identity,
    check_certificate,
    client_context,
    server_context,
)
from tests.chart.rendering import NAMESPACE, POOL, Chart, Object, Objects, environment, parsed
from tests.chart.test_central import container, pod

HOST = f"metadata-texera-cu-sidecar-central.{NAMESPACE}.svc.cluster.local"
CLIENT = f"DNS:metadata-texera-cu-sidecar.{POOL}"
TLS_FEATURES = ("tls", "tls-foreign-authority", "tls-self-signed", "tls-clients")
WITH_CLIENTS = ("tls-clients", "tls-cert-manager", "tls-clients-volume")


@pytest.fixture(autouse=True)
def _cache_of_helm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it remembers of an API server."""
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "kube"))


def fragment(chart: Chart, feature: str) -> Any:
    """The pod's spec as `injection.mode: none` prints it."""
    text = chart.render(feature, "injection-none").one("ConfigMap", "pod-fragment")["data"]
    return yaml.safe_load(text["pod.yaml"])["spec"]


def mounted(container: Object, volume: str) -> str:
    """Where the container mounts it."""
    (path,) = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == volume]
    return str(path)


# --- central's certificate, and the CA that sidecars trust


@pytest.mark.parametrize("feature", [*TLS_FEATURES, "tls-cert-manager"])
def test_central_has_a_certificate_and_sidecars_call_it_by_https(
    chart: Chart, feature: str
) -> None:
    objects = chart.render(feature)
    variables = environment(container(objects))

    (volume,) = [v for v in pod(objects)["volumes"] if v["name"] == "tls"]
    folder = mounted(container(objects), "tls")
    made = [o["metadata"]["name"] for o in [*objects.of("Secret"), *objects.of("Certificate")]]
    assert volume["secret"]["secretName"] in {"central-tls", *made}
    assert variables["CENTRAL_TLS_CERT_FILE"] == f"{folder}/tls.crt"
    assert variables["CENTRAL_TLS_KEY_FILE"] == f"{folder}/tls.key"
    (port,) = [p for p in objects.one("Service")["spec"]["ports"] if p["name"] == "api"]
    assert port["appProtocol"] == "https"
    url = environment(chart.sidecar(feature))["SIDECAR_CENTRAL_URL"]
    assert url == f"https://{HOST}:7080"


def test_without_tls_nothing_of_it_is_mounted(chart: Chart) -> None:
    objects, sidecar = chart.render(), chart.sidecar()

    assert environment(sidecar)["SIDECAR_CENTRAL_URL"] == f"http://{HOST}:7080"
    for given in (environment(container(objects)), environment(sidecar)):
        assert [name for name in given if "_TLS_" in name or "CENTRAL_CA" in name] == []
    assert "tls" not in [v["name"] for v in pod(objects)["volumes"]]


def test_sidecars_trust_the_configured_ca(chart: Chart) -> None:
    objects, sidecar = chart.render("tls"), chart.sidecar("tls")

    authority = objects.one("ConfigMap", "-ca")
    assert authority["metadata"]["namespace"] == POOL
    assert "BEGIN CERTIFICATE" in authority["data"]["ca.crt"]
    (volume,) = [v for v in fragment(chart, "tls")["volumes"] if "configMap" in v]
    assert volume["configMap"]["name"] == authority["metadata"]["name"]
    folder = mounted(sidecar, volume["name"])
    assert environment(sidecar)["SIDECAR_CENTRAL_CA_FILE"] == f"{folder}/ca.crt"


def test_existing_ca_config_map_is_mounted_not_created(chart: Chart) -> None:
    assert chart.render("tls-foreign-authority").of("ConfigMap") == []

    (volume,) = [v for v in fragment(chart, "tls-foreign-authority")["volumes"] if "configMap" in v]
    assert volume["configMap"]["name"] == "trust"
    assert volume["configMap"]["items"] == [{"key": "root.pem", "path": "ca.crt"}]


# --- certificates of sidecars


@pytest.mark.parametrize("feature", WITH_CLIENTS)
def test_the_sidecars_certificate_is_mounted_in_the_sidecar_alone(
    chart: Chart, feature: str
) -> None:
    spec = fragment(chart, feature)
    sidecar, (unit,) = spec["initContainers"][0], spec["containers"]

    variables = environment(sidecar)
    folder = mounted(sidecar, "cu-sidecar-tls")
    assert variables["SIDECAR_TLS_CERT_FILE"] == f"{folder}/tls.crt"
    assert variables["SIDECAR_TLS_KEY_FILE"] == f"{folder}/tls.key"
    assert "volumeMounts" not in unit
    policy = json.dumps(chart.render(feature).one("ValidatingAdmissionPolicy", "guard"))
    assert '\\"cu-sidecar-tls\\"' in policy  # among the volumes that no other container may mount


@pytest.mark.parametrize("feature", WITH_CLIENTS)
def test_central_asks_for_certificates_of_the_ca_beside_its_own(chart: Chart, feature: str) -> None:
    objects = chart.render(feature)
    variables = environment(container(objects))

    folder = mounted(container(objects), "tls")
    assert variables["CENTRAL_TLS_CLIENT_CA_FILE"] == f"{folder}/ca.crt"
    expected = "request" if feature == "tls-cert-manager" else "require"
    assert variables["CENTRAL_TLS_CLIENT_AUTH"] == expected
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(objects)[probe]["httpGet"]["port"] == "ops"  # which has no TLS


def test_any_volume_may_hold_the_sidecars_certificate(chart: Chart) -> None:
    (volume,) = [
        v
        for v in fragment(chart, "tls-clients-volume")["volumes"]
        if v["name"].endswith("-sidecar-tls")
    ]

    assert volume["csi"] == {"driver": "spiffe.csi.cert-manager.io", "readOnly": True}
    assert "secret" not in volume


# --- cert-manager


def test_cert_manager_makes_a_certificate_in_each_namespace(chart: Chart) -> None:
    objects = chart.render("tls-cert-manager")

    server = objects.one("Certificate", "central-tls")
    client = objects.one("Certificate", "client-tls")
    assert server["metadata"]["namespace"] == NAMESPACE
    assert HOST in server["spec"]["dnsNames"]
    assert "server auth" in server["spec"]["usages"]
    assert client["metadata"]["namespace"] == POOL
    assert [f"DNS:{name}" for name in client["spec"]["dnsNames"]] == [CLIENT]
    assert "client auth" in client["spec"]["usages"]
    for made in (server, client):
        assert made["spec"]["issuerRef"]["name"] == "texera-ca"
        assert made["spec"]["issuerRef"]["kind"] == "ClusterIssuer"
    (volume,) = [v for v in fragment(chart, "tls-cert-manager")["volumes"] if "secret" in v]
    assert volume["secret"]["secretName"] == client["spec"]["secretName"]
    # The issuer's CA is in the Secret, so no ConfigMap has to carry it.
    sidecar = environment(chart.sidecar("tls-cert-manager"))
    assert sidecar["SIDECAR_CENTRAL_CA_FILE"] == "/etc/sidecar-tls/ca.crt"


# --- the chart's own CA


def test_the_charts_own_certificates_make_a_handshake(chart: Chart, tmp_path: Path) -> None:
    objects = chart.render("tls-clients")
    server = written(objects.one("Secret", "central-tls"), tmp_path / "server")
    client = written(objects.one("Secret", "client-tls"), tmp_path / "client")
    trusted = tmp_path / "ca.crt"
    trusted.write_text(objects.one("ConfigMap", "-ca")["data"]["ca.crt"])

    identity = handshake(
        server_context(server, server.certificate.parent / "ca.crt").wrap_bio,
        client_context(trusted, client).wrap_bio,
    )

    assert identity == CLIENT
    for files, is_server in ((server, True), (client, False)):
        assert "valid until 2" in check_certificate(files, is_server=is_server)
    assert not list(tmp_path.rglob("ca.key"))  # its key is thrown away


def written(secret: Object, folder: Path) -> CertificateFiles:
    """A Secret as the kubelet mounts it."""
    folder.mkdir()
    for name, value in secret["data"].items():
        (folder / name).write_bytes(base64.b64decode(value))
    return CertificateFiles(folder / "tls.crt", folder / "tls.key")


def handshake(server: Any, client: Any) -> str | None:
    """In memory; the client's identity as the server reads it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling = client(to_client, to_server, server_hostname=HOST)
    called = server(to_server, to_client, server_side=True)
    for side in (calling, called, calling, called):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return certificate_identity(called.getpeercert())


@pytest.mark.parametrize("feature", ["tls-self-signed", "tls-clients"])
def test_an_upgrade_keeps_the_certificates(chart: Chart, feature: str) -> None:
    first = chart.render(feature)

    assert secrets(upgrade(chart, first, feature)) == secrets(first)


def test_certificates_are_made_anew_for_another_host_or_if_one_is_missing(chart: Chart) -> None:
    first, without_clients = chart.render("tls-clients"), chart.render("tls-self-signed")

    elsewhere = upgrade(chart, first, "tls-clients", clusterDomain="other.local")
    added = upgrade(chart, without_clients, "tls-clients")

    assert not secrets(elsewhere).items() & secrets(first).items()
    assert not secrets(added).items() & secrets(without_clients).items()
    authorities = {o["data"]["ca.crt"] for o in added.of("Secret")}
    assert len(authorities) == 1


def secrets(objects: Objects) -> dict[str, str]:
    """The private keys, by the names of their Secrets."""
    return {o["metadata"]["name"]: o["data"]["tls.key"] for o in objects.of("Secret")}


def upgrade(chart: Chart, installed: Objects, feature: str, **values: Any) -> Objects:
    """What helm renders against a cluster that has these objects."""
    with api_server(installed) as url:
        command = [*chart.template, "--dry-run=server", f"--kube-apiserver={url}"]
        command += ["--is-upgrade", "--disable-openapi-validation"]
        return parsed(chart.run(command, [feature], values))


@contextmanager
def api_server(stored: Objects) -> Iterator[str]:
    """As much of an API server as helm asks to render: versions, resources, and Secrets.

    A real one is in tests/cluster, where it has been built.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    pages: dict[str, Mapping[str, Any]] = {
        "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
    }
    for item in stored.all:
        version, kind, place = item["apiVersion"], item["kind"], item["metadata"]
        plural = re.sub("ys$", "ies", f"{kind.lower()}s")
        resource = {"name": plural, "kind": kind, "namespaced": "namespace" in place}
        groups.setdefault(version, []).append(resource | {"verbs": ["get"]})
        if kind == "Secret":
            path = f"/api/v1/namespaces/{place['namespace']}/secrets/{place['name']}"
            pages[path] = item
    for version, resources in groups.items():
        listed = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        pages[f"/api/{version}" if version == "v1" else f"/apis/{version}"] = listed
    named = [
        {"name": group, "versions": [{"groupVersion": f"{group}/{version}", "version": version}]}
        for group, _, version in (name.partition("/") for name in groups)
        if version
    ]
    pages["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = pages.get(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404}
            body = json.dumps(found or missing).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
