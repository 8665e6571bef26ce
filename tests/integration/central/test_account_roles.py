"""The account check: a token grants no more than its account has now, or a little earlier."""

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


class Roles:
    """Accounts whose roles a test sets; counts reads."""

    def __init__(self) -> None:
        self.roles: dict[int, str] = {1: "REGULAR"}
        self.read_count = 0

    async def role(self, user_id: int) -> str | None:
        self.read_count += 1
        return self.roles.get(user_id)


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


async def test_a_promotion_waits_for_the_next_token() -> None:
    roles = Roles()
    roles.roles[1] = "ADMIN"

    user = await AccountRoleCache(roles, 60.0).with_current_role(User(1, "REGULAR", 1e9))

    assert not user.reads_everything
