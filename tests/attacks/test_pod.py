"""What a process of the pod can do to another without a token, or with one that it made up."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from dev.polling import wait_until
from dev.ready import Ready
from dev.tokens import mint
from tests.attacks.conftest import Record
from tests.attacks.hostile import MIB, busy_s, connect, head, peak_bytes, probing
from tests.databases import open_folder
from tests.journeys.calls import call, create
from tests.systems import Up, running_system

CONNECTIONS_MAX = 640
OWN_CONNECTIONS = 5
PIPELINED_MAX_BYTES = {"sidecar": 40 * MIB, "central": 120 * MIB}
"""Of all connections: objects, and what has been read and not been answered."""
ATTACK_S, LEFT_S = 10.0, 3.0
"""How long the senders stay, and how long a service may work for them once they have gone."""
STRANGERS = 300
"""Connections that call with tokens made up; a sidecar serves 128 such calls at once."""
OTHER_UID = 65_533
TRIES = """
import os, pathlib, socket, sys
uid, api, spool = int(sys.argv[1]), *sys.argv[2:]
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
def connect():
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(api)
        line.sendall(b"GET /openapi.json HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        assert line.recv(1)
for reach in connect, pathlib.Path(spool).read_bytes:
    try:
        reach()
    except (OSError, AssertionError) as error:
        print("refused")
    else:
        print("reached")
"""


@pytest.fixture(scope="module")
def attacked() -> Iterator[Up]:
    """With a unix socket that every uid of the pod finds, for one of them."""
    with open_folder() as folder:
        folder.chmod(0o711)
        api = {
            "": str(folder / "api.sock"),
            "_MODE": "0666",
            "_UIDS": str(os.getuid()),
        }
        given = [f"--set=SIDECAR_UNIX_SOCKET{name}={value}" for name, value in api.items()]
        with running_system(folder, *given) as up:
            yield up


def test_connections_from_many_addresses_evict_nobody_elses(
    system: Ready, record: Record, rounds: int
) -> None:
    address = urlsplit(system["sidecar"])
    token = system["users"]["owner"]["token"]
    read = head("GET", "/v1/writes", {"Host": "localhost", "Authorization": f"Bearer {token}"})
    own = [connect(system["sidecar"]) for _ in range(OWN_CONNECTIONS)]
    others, lost, used = [], 0, 0

    for number in range(CONNECTIONS_MAX + 60 * rounds):
        other = socket.socket()
        other.bind((f"127.0.{1 + number // 250}.{1 + number % 250}", 0))
        other.connect((address.hostname, address.port))
        others.append(other)
        if number % 60 == 0:
            for line in own:
                try:
                    line.sendall(read)
                    lost += not line.recv(65536)
                except OSError:
                    lost += 1
                used += 1
    for line in (*own, *others):
        line.close()

    record(f"{lost} of {used} calls on another process's connections fail")
    assert lost == 0


@pytest.mark.parametrize("ahead", ["requests", "body"])
@pytest.mark.parametrize(("service", "connections"), [("sidecar", 600), ("central", 1900)])
def test_what_is_sent_ahead_ends_with_its_senders(
    system: Ready, record: Record, service: str, connections: int, ahead: str
) -> None:
    url: str = system[service]  # type: ignore[literal-required]
    announced = head("POST", "/v1/batches", {"Content-Length": str(MIB)})
    before = peak_bytes(system, service)
    sent = {"requests": head("GET", "/v1/token") * 6000, "body": announced + bytes(250_000)}[ahead]
    with probing(f"{system['central_ops']}/livez") as probes:
        lines = [connect(url) for _ in range(connections)]
        for line in lines:
            line.setblocking(False)
            with suppress(OSError):  # it takes no more, or has ended
                line.send(sent)  # as much as the kernel takes
        attacked_s = busy_s(system, service, ATTACK_S)
        for line in lines:
            line.close()
        left_s = busy_s(system, service, ATTACK_S)

    grown = peak_bytes(system, service) - before
    record(
        f"{grown / MIB:.0f} MiB more; works {attacked_s:.1f} s, and {left_s:.1f} s more once they"
        f" have gone; /livez takes {probes.longest_s:.1f} s at most"
    )
    assert grown < PIPELINED_MAX_BYTES[service]
    assert left_s < LEFT_S
    assert not probes.failures


def test_a_made_up_token_learns_nothing_of_pending_writes(
    system: Ready, record: Record, rounds: int
) -> None:
    central = system["processes"]["central"]["pid"]
    owner = system["users"]["owner"]["token"]
    pending, idle = create(system), create(system)
    os.kill(central, signal.SIGSTOP)
    try:
        assert call(system, "PATCH", f"/v1/executions/{pending}", {"name": "x"}, token=owner)[0]
        found = set()
        for number in range(rounds):
            for execution_id in (pending, idle, 999_999):
                selected = {"workflow_id": system["workflow_id"], "execution_ids": [execution_id]}
                made_up, path = f"made.up.{number}", "/v1/executions/delete"
                started_at = time.monotonic()
                status, problem, _ = call(system, "POST", path, selected, token=made_up)
                assert time.monotonic() - started_at < 19
                found.add((status, problem["type"]))
    finally:
        os.kill(central, signal.SIGCONT)

    assert wait_until(lambda: call(system, "GET", "/v1/writes", token=owner)[0] == 200, 30)
    record(f"{sorted(status for status, _ in found)}, whatever is pending")
    assert found == {(503, "central-unavailable")}


async def test_tokens_made_up_do_not_keep_a_users_first_call_out(
    system: Ready, record: Record, rounds: int
) -> None:
    """No token of the user's has been seen before, as the strangers' have not."""
    owner, tries = system["users"]["owner"]["user_id"], 10 * rounds
    url = f"{system['sidecar']}/v1/executions/{create(system)}"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def read(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(url, headers=headers) as response:
                await response.read()
                return response.status

        async def flood(number: int) -> None:
            for again in count():
                await read(f"made.up.{number}-{again}")

        floods = [asyncio.create_task(flood(number)) for number in range(STRANGERS)]
        while await read("made.up.first") != 401:
            pass
        statuses, longest_s = [], 0.0
        for number in range(tries):
            started_at = time.monotonic()
            statuses.append(await read(mint(owner, ttl_s=1000 + number)))
            longest_s = max(longest_s, time.monotonic() - started_at)
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)

    record(f"{statuses.count(200)} of {tries} are served, within {longest_s:.1f} s")
    assert statuses == [200] * tries


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another uid")
def test_another_uid_gets_at_neither_the_spool_nor_the_socket(
    system: Ready, attacked: Up, record: Record
) -> None:
    environment = attacked.published("sidecar")["env"]
    create(system)
    spool = Path(environment["SIDECAR_SPOOL_DIR"]) / "spool.sqlite3"
    # As if the volume's root were somebody else's, which the sidecar cannot change.
    spool.parent.chmod(0o711)
    try:
        found = {
            uid: subprocess.run(
                [sys.executable, "-c", TRIES, str(uid), environment["SIDECAR_UNIX_SOCKET"], spool],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()
            for uid in (0, OTHER_UID)
        }
    finally:
        spool.parent.chmod(0o700)

    record("both are refused")
    assert found == {0: ["reached", "reached"], OTHER_UID: ["refused", "refused"]}
