"""`python -m sidecar doctor`: each thing that can be wrong with a pod, made wrong."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kit.http.checks import Check, CheckStatus, Fail, Warn, exit_code, format_checks, run_checks
from kit.http.settings import SettingsError
from sidecar.cli.doctor import (
    NEEDLESS,
    check_central,
    check_encryption,
    check_environment,
    check_fsync,
    check_key,
    check_service_account,
    check_unit_environment,
    check_volume,
    credentials,
    parse_environment,
    tls_checks,
)
from sidecar.settings import Settings
from sidecar.upstream.source_identity import (
    KEY_FILE_NAME,
    NEXT_KEY_FILE_NAME,
    has_key,
    load_or_create,
    load_or_create_next,
)
from tests.certificates import DAY, Authority, files_in, spiffe

CLEAN = {
    "PATH": "/usr/bin:/bin",
    "SIDECAR_CENTRAL_URL": "http://central:7080",
    "SIDECAR_WORKLOAD_TOKEN_FILE": "/var/run/secrets/central/token",
    "STORAGE_ICEBERG_CATALOG_REST_URI": "http://lakekeeper:8181/catalog",
    "EMPTY_SECRET": "",
}
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"


# --- credentials


def test_a_clean_environment_passes() -> None:
    assert credentials(CLEAN) == set()
    check_environment(CLEAN)
    check_unit_environment(CLEAN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "hidden") for name in sorted(NEEDLESS)),
        ("DATABASE_URL", "postgresql://u:hidden@db/x"),
        ("ANYTHING", f"Bearer {JWT}"),
        ("PEM", "-----BEGIN RSA PRIVATE KEY-----\nhidden"),
        ("MY_API_KEY", "hidden"),
        ("aws_secret_access_key", "hidden"),
    ],
)
def test_a_sidecar_with_a_credential_of_others_fails(name: str, value: str) -> None:
    with pytest.raises(Fail, match=name) as raised:
        check_environment(CLEAN | {name: value})

    assert "hidden" not in str(raised.value)
    assert JWT not in str(raised.value)


def test_the_units_credentials_are_named_by_kind() -> None:
    used = CLEAN | {"USER_JWT_TOKEN": JWT, "GITHUB_TOKEN": "hidden"}
    needless = {"AUTH_JWT_SECRET": "hidden", "STORAGE_JDBC_URL": "jdbc:postgresql://db/x"}

    with pytest.raises(Warn, match="used by Texera: USER_JWT_TOKEN; others: GITHUB_TOKEN"):
        check_unit_environment(used)
    with pytest.raises(Fail, match="removed: AUTH_JWT_SECRET, STORAGE_JDBC_URL; used by Texera: U"):
        check_unit_environment(used | needless)


@pytest.mark.parametrize("text", ["A=1\0B=x=y\nz\0", "A=1\nB=x=y\nz\n"])
def test_both_forms_of_an_environment_are_read(text: str) -> None:
    variables = parse_environment(text)

    assert variables["A"] == "1"
    assert variables["B"].startswith("x=y")


# --- the volume


def test_a_spool_without_a_volume_of_its_own_fails(tmp_path: Path) -> None:
    check_volume(tmp_path, 1, container=Path("/proc"))

    with pytest.raises(Fail, match="lost with the container"):
        check_volume(tmp_path, 1, container=tmp_path)


def test_a_volume_without_space_for_the_spool_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Warn, match="less than SIDECAR_SPOOL_MAX_BYTES"):
        check_volume(tmp_path, 2**62, container=Path("/proc"))
    with pytest.raises(FileNotFoundError):
        check_volume(tmp_path / "gone", 1)


def test_a_key_that_others_can_read_fails(tmp_path: Path) -> None:
    with pytest.raises(Warn, match="none yet"):
        check_key(tmp_path, 0)
    load_or_create(tmp_path)
    check_key(tmp_path, 0)

    for mode in (0o640, 0o604, 0o660):
        (tmp_path / KEY_FILE_NAME).chmod(mode)
        with pytest.raises(Fail, match=f"mode {mode:04o}"):
            check_key(tmp_path, 0)


def test_a_key_that_is_not_replaced_in_time_is_reported(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    made_at = (tmp_path / KEY_FILE_NAME).stat().st_mtime

    def after(days: float) -> Callable[[], float]:
        return lambda: made_at + days * 86_400

    assert check_key(tmp_path, 86_400, wall_clock=after(1)).endswith("1.0 days old")
    assert check_key(tmp_path, 0, wall_clock=after(400)).endswith("400.0 days old")
    with pytest.raises(Warn, match="it should have been replaced after"):
        check_key(tmp_path, 86_400, wall_clock=after(2))
    load_or_create_next(tmp_path)
    with pytest.raises(Warn, match="its replacement waits for central"):
        check_key(tmp_path, 86_400, wall_clock=after(1))
    (tmp_path / NEXT_KEY_FILE_NAME).chmod(0o644)
    with pytest.raises(Fail, match="mode 0644"):
        check_key(tmp_path, 86_400, wall_clock=after(1))


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that advances by this much with each reading."""
    ticks = count()
    return lambda: next(ticks) * step_s


def test_an_fsync_that_does_nothing_is_reported(tmp_path: Path) -> None:
    assert check_fsync(tmp_path, ticking(0.0005)).startswith("0.500 ms")

    with pytest.raises(Warn, match="too fast for a disk"):
        check_fsync(tmp_path, ticking(1e-6))
    assert list(tmp_path.iterdir()) == []


def test_a_volume_that_takes_no_writes_fails() -> None:
    with pytest.raises(OSError, match="/proc"):
        check_fsync(Path("/proc"), ticking(0.001))


def test_a_mounted_service_account_is_reported(tmp_path: Path) -> None:
    token = tmp_path / "token"
    check_service_account(token)

    token.touch()
    with pytest.raises(Warn):
        check_service_account(token)


# --- central


@asynccontextmanager
async def central(response: Callable[[], web.Response]) -> AsyncIterator[str]:
    async def serve(request: web.Request) -> web.Response:
        assert "Sidecar-Assertion" in request.headers
        return response()

    app = web.Application()
    app.router.add_get("/v1/bindings", serve)
    async with TestServer(app) as server:
        yield str(server.make_url(""))


def settings(url: str, spool: Path) -> Settings:
    variables = {"SIDECAR_CENTRAL_URL": url, "SIDECAR_SPOOL_DIR": str(spool)}
    return Settings.from_environment(variables)


async def check_at(url: str, spool: Path, offset_s: int) -> str:
    """By a clock that is ahead of central's `Date`."""
    return await check_central(settings(url, spool), wall_clock=lambda: 1_700_000_000.0 + offset_s)


async def test_a_difference_of_the_clocks_is_reported(tmp_path: Path) -> None:
    date = {"Date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    responses = [web.json_response({"bindings": []}, headers=date) for _ in range(3)]
    async with central(responses.pop) as url:
        assert "accepts this sidecar's signature" in await check_at(url, tmp_path, 1)
        with pytest.raises(Warn, match=r"-20\.0 s"):
            await check_at(url, tmp_path, 20)
        with pytest.raises(Fail, match=r"-60\.0 s"):
            await check_at(url, tmp_path, 60)

    assert not has_key(tmp_path)


async def test_a_refused_signature_is_reported_with_the_reason(tmp_path: Path) -> None:
    problem = {"type": "assertion-invalid", "title": "t", "status": 401, "detail": "aud: expected"}
    async with central(
        lambda: web.json_response(problem, status=401, content_type="application/problem+json")
    ) as url:
        with pytest.raises(Fail, match="assertion-invalid: aud: expected"):
            await check_central(settings(url, tmp_path))


async def test_an_unreachable_central_fails(tmp_path: Path) -> None:
    with pytest.raises(Fail, match="Connect call failed"):
        await check_central(settings("http://127.0.0.1:9", tmp_path))


def test_a_way_to_central_that_is_not_encrypted_is_reported() -> None:
    for fine in ("https://central:7080", "http://localhost:7080", "http://127.0.0.1:7080"):
        check_encryption(fine)

    with pytest.raises(Warn, match="connection to central is not encrypted"):
        check_encryption("http://central:7080")


async def test_files_of_tls_that_cannot_work_are_named(tmp_path: Path) -> None:
    authority, own, other = Authority(), files_in(tmp_path), files_in(tmp_path, "other")
    authority.issue(own, names=spiffe("sidecar"), ends_in=30 * DAY)
    authority.issue(other)
    authority.write(tmp_path / "ca", ends_in=30 * DAY)
    variables = {
        "SIDECAR_CENTRAL_URL": "https://central:7080",
        "SIDECAR_CENTRAL_CA_FILE": str(tmp_path / "ca"),
        "SIDECAR_TLS_CERT_FILE": str(own.certificate),
        "SIDECAR_TLS_KEY_FILE": str(own.key),
    }

    async def found(**changes: str) -> dict[str, Check]:
        given = Settings.from_environment(variables | changes)
        return {check.name: check for check in await run_checks(tls_checks(given))}

    good = await found()
    assert {check.status for check in good.values()} == {CheckStatus.OK}
    assert good["certificate"].detail.startswith("URI:spiffe://texera.example/sidecar, valid until")
    mixed = await found(SIDECAR_TLS_KEY_FILE=str(other.key))
    assert "key values mismatch" in mixed["certificate"].detail
    missing = await found(SIDECAR_CENTRAL_CA_FILE=str(tmp_path / "none"))
    assert missing["ca of central"].status is CheckStatus.FAIL
    authority.issue(own, ends_in=DAY / 10)
    assert "expires soon" in (await found())["certificate"].detail


def test_a_certificate_takes_its_key_and_https() -> None:
    url = {"SIDECAR_CENTRAL_URL": "https://central"}
    certificate = {"SIDECAR_TLS_CERT_FILE": "/tls/tls.crt"}
    pair = certificate | {"SIDECAR_TLS_KEY_FILE": "/tls/tls.key"}

    assert Settings.from_environment(url | pair).certificate is not None
    with pytest.raises(SettingsError, match="SIDECAR_TLS_KEY_FILE: must be set"):
        Settings.from_environment(url | certificate)
    with pytest.raises(SettingsError, match="SIDECAR_CENTRAL_URL: must begin with https://"):
        Settings.from_environment(pair | {"SIDECAR_CENTRAL_URL": "http://central"})


# --- the shape


async def test_checks_run_in_order_and_only_a_failed_one_ends_with_1() -> None:
    def warn() -> str:
        raise Warn("careful")

    def fail() -> str:
        raise OSError("broken")

    found = await run_checks({"a": lambda: "fine", "b": warn, "c": fail})

    assert found == [
        Check("a", CheckStatus.OK, "fine"),
        Check("b", CheckStatus.WARN, "careful"),
        Check("c", CheckStatus.FAIL, "broken"),
    ]
    assert (exit_code(found[:2]), exit_code(found)) == (0, 1)
    assert format_checks(found, as_json=False).splitlines()[1] == "WARN  b  careful"
