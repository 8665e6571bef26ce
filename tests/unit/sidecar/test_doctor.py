"""`python -m sidecar doctor`: each thing that can be wrong with a pod, made wrong."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kit.http.checks import Check, Verdict, exit_code, format_checks
from sidecar.cli.credentials import (
    NEEDLESS,
    Whose,
    check_credentials,
    credentials,
    parse_environment,
)
from sidecar.cli.doctor import check_central, check_service_account
from sidecar.cli.volume import check_key, check_sync, check_volume, mount_of
from sidecar.settings import Settings
from sidecar.upstream.source_identity import KEY_FILE_NAME, has_key, load_or_create

CLEAN = {
    "PATH": "/usr/bin:/bin",
    "SIDECAR_CENTRAL_URL": "http://central:7080",
    "SIDECAR_WORKLOAD_TOKEN_FILE": "/var/run/secrets/central/token",
    "STORAGE_ICEBERG_CATALOG_REST_URI": "http://lakekeeper:8181/catalog",
    "EMPTY_SECRET": "",
}
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"


def verdicts(checks: list[Check]) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in checks}


# --- credentials


def test_a_clean_environment_holds_no_credential() -> None:
    assert credentials(CLEAN) == []
    for whose in Whose:
        (check,) = check_credentials(CLEAN, whose)
        assert check.verdict is Verdict.OK


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
    (check,) = check_credentials(CLEAN | {name: value}, Whose.SIDECAR)

    assert check.verdict is Verdict.FAIL
    assert name in check.detail
    assert "hidden" not in check.detail
    assert JWT not in check.detail


def test_the_unit_is_told_what_it_should_no_longer_have_and_what_it_still_uses() -> None:
    unit = CLEAN | {
        "AUTH_JWT_SECRET": "hidden",
        "STORAGE_JDBC_URL": "jdbc:postgresql://db/x",
        "USER_JWT_TOKEN": JWT,
        "GITHUB_TOKEN": "hidden",
    }

    checks = check_credentials(unit, Whose.COMPUTING_UNIT)

    assert [(c.verdict, c.detail.partition(": ")[2].partition(";")[0]) for c in checks] == [
        (Verdict.FAIL, "AUTH_JWT_SECRET, STORAGE_JDBC_URL"),
        (Verdict.WARN, "USER_JWT_TOKEN"),
        (Verdict.WARN, "GITHUB_TOKEN"),
    ]


@pytest.mark.parametrize("text", ["A=1\0B=x=y\nz\0", "A=1\nB=x=y\nz\n"])
def test_both_forms_of_an_environment_are_read(text: str) -> None:
    variables = parse_environment(text)

    assert variables["A"] == "1"
    assert variables["B"].startswith("x=y")


# --- the volume

MOUNTS = (
    "22 1 0:20 / / rw - overlay overlay rw\n"
    "23 22 8:1 / /var/lib/sidecar rw,noatime shared:1 - ext4 /dev/sda1 rw\n"
    "24 22 0:30 / /memory rw - tmpfs tmpfs rw\n"
    "25 22 8:2 / /with\\040space rw - xfs /dev/sdb rw\n"
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/sidecar", ("/var/lib/sidecar", "ext4")),
        ("/var/lib/sidecar/spool/x", ("/var/lib/sidecar", "ext4")),
        ("/var/lib/sidecars", ("/", "overlay")),
        ("/memory/x", ("/memory", "tmpfs")),
        ("/with space/x", ("/with space", "xfs")),
    ],
)
def test_the_mount_of_a_path_is_the_longest_that_holds_it(
    path: str, expected: tuple[str, str]
) -> None:
    assert mount_of(Path(path), MOUNTS) == (Path(expected[0]), expected[1])


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("ext4", Verdict.OK), ("tmpfs", Verdict.WARN), ("overlay", Verdict.FAIL)],
)
def test_a_spool_that_ends_with_its_container_fails(
    tmp_path: Path, kind: str, verdict: Verdict
) -> None:
    spool, mounts = tmp_path / "spool", tmp_path / "mounts"
    spool.mkdir()
    mounts.write_text(f"1 0 0:1 / / rw - overlay o rw\n2 1 8:1 / {spool} rw - {kind} d rw\n")

    assert verdicts(check_volume(spool, 1, mounts))["spool's volume"] is verdict


def test_a_spool_on_the_root_of_the_container_fails(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("1 0 8:1 / / rw - ext4 d rw\n")

    assert verdicts(check_volume(tmp_path, 1, mounts))["spool's volume"] is Verdict.FAIL


def test_a_volume_without_room_for_the_spool_is_told(tmp_path: Path) -> None:
    checks = verdicts(check_volume(tmp_path, 2**62))

    assert checks["spool's room"] is Verdict.WARN
    assert verdicts(check_volume(tmp_path / "gone", 1)) == {"spool": Verdict.FAIL}


def test_a_key_that_others_can_read_fails(tmp_path: Path) -> None:
    assert check_key(tmp_path).verdict is Verdict.WARN
    load_or_create(tmp_path)
    assert check_key(tmp_path).verdict is Verdict.OK

    for mode in (0o640, 0o604, 0o660):
        (tmp_path / KEY_FILE_NAME).chmod(mode)
        assert check_key(tmp_path).verdict is Verdict.FAIL


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that moves by this much between two looks at it."""
    ticks = count()
    return lambda: next(ticks) * step_s


@pytest.mark.parametrize(("step_s", "verdict"), [(0.0005, Verdict.OK), (1e-6, Verdict.WARN)])
def test_an_fsync_that_does_nothing_is_told(
    tmp_path: Path, step_s: float, verdict: Verdict
) -> None:
    assert check_sync(tmp_path, ticking(step_s)).verdict is verdict
    assert list(tmp_path.iterdir()) == []


def test_a_volume_that_takes_no_writes_fails() -> None:
    check = check_sync(Path("/proc"), ticking(0.001))

    assert check.verdict is Verdict.FAIL


def test_a_mounted_service_account_is_told(tmp_path: Path) -> None:
    token = tmp_path / "token"
    assert check_service_account(token).verdict is Verdict.OK

    token.touch()
    assert check_service_account(token).verdict is Verdict.WARN


# --- central


@asynccontextmanager
async def central(answer: Callable[[], web.Response]) -> AsyncIterator[str]:
    async def serve(request: web.Request) -> web.Response:
        assert "Sidecar-Assertion" in request.headers
        return answer()

    app = web.Application()
    app.router.add_get("/v1/bindings", serve)
    async with TestServer(app) as server:
        yield str(server.make_url(""))


def settings(url: str, spool: Path) -> Settings:
    variables = {"SIDECAR_CENTRAL_URL": url, "SIDECAR_SPOOL_DIR": str(spool)}
    return Settings.from_environment(variables)


async def at(url: str, spool: Path, offset_s: int) -> list[Check]:
    """The checks by a clock that is ahead of central's `Date`."""
    return await check_central(settings(url, spool), wall_clock=lambda: 1_700_000_000.0 + offset_s)


async def test_a_central_that_answers_tells_its_time(tmp_path: Path) -> None:
    date = {"Date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    answers = [web.json_response({"bindings": []}, headers=date) for _ in range(3)]
    async with central(answers.pop) as url:
        found = {offset: verdicts(await at(url, tmp_path, offset)) for offset in (1, 20, 60)}

    assert {offset: checks["clock"] for offset, checks in found.items()} == {
        1: Verdict.OK,
        20: Verdict.WARN,
        60: Verdict.FAIL,
    }
    assert all(checks["central"] is Verdict.OK for checks in found.values())
    assert not has_key(tmp_path)


async def test_a_central_that_refuses_the_signature_says_why(tmp_path: Path) -> None:
    problem = {"type": "assertion-invalid", "title": "t", "status": 401, "detail": "aud: expected"}
    async with central(
        lambda: web.json_response(problem, status=401, content_type="application/problem+json")
    ) as url:
        checks = await check_central(settings(url, tmp_path))

    assert checks[0].verdict is Verdict.FAIL
    assert "aud: expected" in checks[0].detail


async def test_a_central_that_is_away_is_one_failed_check(tmp_path: Path) -> None:
    checks = await check_central(settings("http://127.0.0.1:9", tmp_path))

    assert verdicts(checks) == {"central": Verdict.FAIL}


def test_only_a_failed_check_ends_with_1() -> None:
    fine = [Check("a", Verdict.OK, ""), Check("b", Verdict.WARN, "")]

    assert exit_code(fine) == 0
    assert exit_code([*fine, Check("c", Verdict.FAIL, "")]) == 1
    assert format_checks(fine, as_json=False).splitlines()[1].startswith("WARN")
