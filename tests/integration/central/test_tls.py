"""Central with a certificate, sidecars that trust its CA only, and that show one of their own."""

from datetime import timedelta
from pathlib import Path

import pytest

from kit.http.checks import Fail
from kit.http.tls import CertificateFiles
from sidecar.cli.doctor import check_central
from sidecar.settings import Settings
from tests.certificates import CLIENTS_ONLY, Authority, files_in, spiffe
from tests.databases import Database
from tests.integration.central.test_lifecycle import running

ACCEPTED = "accepts this sidecar's signature"


def central_tls(own: CertificateFiles, client_ca: Path | None = None) -> dict[str, str]:
    variables = {
        "CENTRAL_TLS_CERT_FILE": str(own.certificate),
        "CENTRAL_TLS_KEY_FILE": str(own.key),
    }
    return variables | ({"CENTRAL_TLS_CLIENT_CA_FILE": str(client_ca)} if client_ca else {})


def sidecar_settings(
    url: str, ca_file: Path, folder: Path, own: CertificateFiles | None = None
) -> Settings:
    variables = {
        "SIDECAR_CENTRAL_URL": url,
        "SIDECAR_CENTRAL_CA_FILE": str(ca_file),
        "SIDECAR_SPOOL_DIR": str(folder),
    }
    if own is not None:
        variables["SIDECAR_TLS_CERT_FILE"] = str(own.certificate)
        variables["SIDECAR_TLS_KEY_FILE"] = str(own.key)
    return Settings.from_environment(variables)


async def test_sidecar_trusts_the_configured_ca_only(database: Database, tmp_path: Path) -> None:
    authority, server = Authority(), files_in(tmp_path)
    authority.issue(server)
    ca_file = authority.write(tmp_path / "ca")
    other_ca_file = Authority().write(tmp_path / "other")

    with running(database.central_url, **central_tls(server)) as central:
        url = f"localhost:{central.port}"

        assert ACCEPTED in await check_central(
            sidecar_settings(f"https://{url}", ca_file, tmp_path)
        )
        with pytest.raises(Fail, match="certificate verify failed"):
            await check_central(sidecar_settings(f"https://{url}", other_ca_file, tmp_path))
        with pytest.raises(Fail, match="central cannot be reached"):
            await check_central(sidecar_settings(f"http://{url}", ca_file, tmp_path))
        assert central.is_ready()  # the ops listener is plain


async def test_central_serves_only_clients_with_a_certificate_of_their_ca(
    database: Database, tmp_path: Path
) -> None:
    server_ca, client_ca = Authority(), Authority()
    server, sidecar, other, expired = (
        files_in(tmp_path, stem) for stem in ("server", "sidecar", "other", "expired")
    )
    server_ca.issue(server)
    client_ca.issue(sidecar, names=spiffe("sidecar"), usage=CLIENTS_ONLY)
    server_ca.issue(other, names=spiffe("sidecar"))
    client_ca.issue(expired, names=spiffe("sidecar"), ends_in=-timedelta(minutes=1))
    ca_file = server_ca.write(tmp_path / "ca")
    variables = central_tls(server, client_ca.write(tmp_path / "client-ca"))

    with running(database.central_url, **variables) as central:
        url = f"https://localhost:{central.port}"

        assert ACCEPTED in await check_central(sidecar_settings(url, ca_file, tmp_path, sidecar))
        for refused in (None, other, expired):
            with pytest.raises(Fail, match="central may require a client certificate"):
                await check_central(sidecar_settings(url, ca_file, tmp_path, refused))
        # Probes and scrapes need none: the ops listener is plain.
        assert central.is_ready()
        assert central.ops("/livez")[0] == 200
        assert "# HELP" in central.ops("/metrics")[1]
        assert central.ops("/status")[1]["config"]["tls_client_auth"] == "require"
