"""The account check: a token grants no more than its account has now, or a little earlier."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from central.auth.user_tokens import AccountRoleCache
from central.domain.callers import User
from central.problems import UserDemoted
from dev.world import WORLD
from dev.world import User as Account
from tests.databases import Database
from tests.integration.central.central_fixtures import Sidecar, running_central

ROLE = """UPDATE texera_db."user" SET role = $1::text::texera_db.user_role_enum WHERE uid = $2"""
WAITING = "select count(*) from pg_locks where not granted"
CONCURRENT_CALLS = 5
"""Of one user, by default."""
RUN = f"/v1/executions/{WORLD.completed_execution_id}"


@pytest.fixture
async def checking(database: Database) -> AsyncIterator[Sidecar]:
    """A sidecar of a central that checks accounts, practically without a cache."""
    settings = {"CENTRAL_ACCOUNT_CHECK_S": "0.000001"}
    async with running_central(database.central_url, variables=settings) as sidecar:
        yield sidecar


async def test_without_the_check_reads_follow_the_token(
    database: Database, owner_connection: Any
) -> None:
    await owner_connection.execute(ROLE, "INACTIVE", WORLD.owner.user_id)

    variables = {"CENTRAL_ACCOUNT_CHECK_S": "0"}
    async with running_central(database.central_url, variables=variables) as unchecked:
        assert (await unchecked.get(RUN)).status == 200


async def test_by_default_an_account_is_checked_once_for_many_reads(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    for _ in range(5):
        assert (await sidecar.get(RUN)).status == 200
    await owner_connection.execute(ROLE, "INACTIVE", WORLD.writer.user_id)

    demoted = await sidecar.get(RUN, WORLD.writer)

    assert demoted.outcome == (403, "user-demoted")
    count = "central_statement_seconds_count"
    assert sidecar.metrics.registry.get_sample_value(count, {"statement": "account_role"}) == 2


@pytest.mark.parametrize("role", ["INACTIVE", "RESTRICTED"])
async def test_a_demoted_account_reads_nothing(
    checking: Sidecar, owner_connection: Any, role: str
) -> None:
    before = await checking.get(RUN)
    await owner_connection.execute(ROLE, role, WORLD.owner.user_id)
    after = await checking.get(RUN)

    assert before.status == 200
    assert after.outcome == (403, "user-demoted")
    assert after.headers["X-User-Id"] == str(WORLD.owner.user_id)


async def test_a_deleted_account_reads_nothing(checking: Sidecar) -> None:
    gone = Account(4711, "gone")

    assert (await checking.get("/v1/token", gone)).outcome == (403, "user-demoted")


async def test_a_former_admin_reads_what_others_may(
    checking: Sidecar, owner_connection: Any
) -> None:
    before = await checking.get(RUN, WORLD.admin)
    await owner_connection.execute(ROLE, "REGULAR", WORLD.admin.user_id)
    after = await checking.get(RUN, WORLD.admin)

    assert before.status == 200
    assert after.outcome == (404, "execution-not-found")


async def test_a_call_that_waits_for_a_slot_keeps_no_role(
    checking: Sidecar, owner_connection: Any
) -> None:
    """Or whoever sends many calls at once prolongs their role by what the last one waits."""
    async with owner_connection.transaction():
        await owner_connection.execute("lock texera_db.workflow_executions")
        running = [asyncio.create_task(checking.get(RUN)) for _ in range(CONCURRENT_CALLS)]
        while await owner_connection.fetchval(WAITING) < CONCURRENT_CALLS:
            pass
        waits = asyncio.create_task(checking.get(RUN))
        await asyncio.sleep(0.3)
        await owner_connection.execute(ROLE, "INACTIVE", WORLD.owner.user_id)

    assert [(await call).status for call in running] == [200] * CONCURRENT_CALLS
    assert (await waits).outcome == (403, "user-demoted")


class Roles:
    """Accounts whose roles a test sets; counts reads. A held read returns what it saw before."""

    def __init__(self) -> None:
        self.roles: dict[int, str] = {1: "REGULAR"}
        self.read_count = 0
        self.may_return = asyncio.Event()
        self.may_return.set()

    async def role(self, user_id: int) -> str | None:
        self.read_count += 1
        role, may_return = self.roles.get(user_id), self.may_return
        await may_return.wait()
        return role


async def test_account_role_is_cached_for_check_s() -> None:
    now, roles = [0.0], Roles()
    accounts = AccountRoleCache(roles, 60.0, timer=lambda: now[0])
    user = User(1, "REGULAR", 1e9)
    for _ in range(5):
        await accounts.with_current_role(user)
    roles.roles.clear()

    now[0] = 59.9
    assert await accounts.with_current_role(user) == user
    assert roles.read_count == 1

    now[0] = 60.0
    for _ in range(2):
        with pytest.raises(UserDemoted):
            await accounts.with_current_role(user)
    assert roles.read_count == 2


async def test_a_role_is_as_old_as_its_question() -> None:
    """Or a database that is made slow prolongs what was withdrawn meanwhile."""
    now, roles = [0.0], Roles()
    accounts = AccountRoleCache(roles, 60.0, timer=lambda: now[0])
    user = User(1, "REGULAR", 1e9)
    roles.may_return.clear()
    slow = asyncio.create_task(accounts.with_current_role(user))
    await asyncio.sleep(0)
    roles.roles.clear()

    now[0] = 59.9
    roles.may_return.set()
    assert await slow == user

    now[0] = 60.0
    with pytest.raises(UserDemoted):
        await accounts.with_current_role(user)


async def test_a_slow_read_of_a_role_does_not_replace_a_later_one() -> None:
    now, roles = [0.0], Roles()
    accounts = AccountRoleCache(roles, 60.0, timer=lambda: now[0])
    user = User(1, "REGULAR", 1e9)
    held = roles.may_return = asyncio.Event()
    slow = asyncio.create_task(accounts.with_current_role(user))
    await asyncio.sleep(0)
    roles.roles.clear()
    roles.may_return = asyncio.Event()
    roles.may_return.set()
    now[0] = 1.0
    with pytest.raises(UserDemoted):
        await accounts.with_current_role(user)

    held.set()

    with pytest.raises(UserDemoted):
        await slow
    with pytest.raises(UserDemoted):
        await accounts.with_current_role(user)


async def test_a_promotion_waits_for_the_next_token() -> None:
    roles = Roles()
    roles.roles[1] = "ADMIN"

    user = await AccountRoleCache(roles, 60.0).with_current_role(User(1, "REGULAR", 1e9))

    assert not user.reads_everything
