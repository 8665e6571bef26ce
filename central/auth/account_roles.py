"""Whether a token's user still is what the token says: the optional live check.

A token of Texera's lives for a week and names a role; accounts change meanwhile. With the
check, an account is looked at once in `check_s`, so a demotion counts at most that much later.
Without it reads follow the token; creating, binding and batches look at the account anyway.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from cachetools import TTLCache

from central.auth.user_tokens import User
from central.problems import UserDemoted

REMEMBERED_USERS = 50_000


class Accounts(Protocol):
    async def role(self, user_id: int) -> str | None:
        """REGULAR or ADMIN; None for an account that is gone or may not act."""


class AccountRoleCache:
    """Promise: a user is no more than their account was `check_s` ago."""

    def __init__(
        self, accounts: Accounts, check_s: float, *, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._accounts = accounts
        self._roles: TTLCache[int, tuple[str | None]] = TTLCache(
            REMEMBERED_USERS, check_s, timer=timer
        )

    async def with_current_role(self, user: User) -> User:
        """The user with no more rights than their account has. Raises `UserDemoted`.

        An account that was promoted since gets its new rights with its next token.
        """
        known = self._roles.get(user.user_id)
        if known is None:
            known = self._roles[user.user_id] = (await self._accounts.role(user.user_id),)
        (role,) = known
        if role is None:
            raise UserDemoted("the token's user is no longer REGULAR or ADMIN")
        return user if role == "ADMIN" else replace(user, role=role)
