"""The ready file: a running system's addresses, users with tokens, and its processes' commands.

It is written whole or not at all, once everything answers, and removed when the system ends: while
the file exists, the system is up. Only its owner may read it, because it holds tokens.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from dev.ports import HOST, Ports
from dev.problems import DevProblem
from dev.processes import ManagedProcess, ProcessDescription
from dev.tokens import mint
from dev.world import WORLD, User

PUBLISHED_USERS = ("owner", "writer", "reader", "stranger", "admin", "restricted")


class Account(TypedDict):
    """A user of the sample world."""

    user_id: int
    token: str


class Ready(TypedDict):
    """What a script needs to use the system. `database` is a direct URL of the tables' owner."""

    sidecar: str
    sidecar_ops: str
    central: str
    central_ops: str
    database: str
    users: dict[str, Account]
    workflow_id: int
    public_workflow_id: int
    computing_unit_id: int
    other_computing_unit_id: int
    processes: dict[str, ProcessDescription]


def describe(ports: Ports, database_url: str, processes: Mapping[str, ManagedProcess]) -> Ready:
    """The contents of the file."""
    return {
        "sidecar": f"http://{HOST}:{ports.sidecar}",
        "sidecar_ops": f"http://{HOST}:{ports.sidecar_ops}",
        "central": f"http://{HOST}:{ports.central}",
        "central_ops": f"http://{HOST}:{ports.central_ops}",
        "database": database_url,
        "users": {user.name: account(user) for user in published_users()},
        "workflow_id": WORLD.workflow_id,
        "public_workflow_id": WORLD.public_workflow_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "other_computing_unit_id": WORLD.other_computing_unit_id,
        "processes": {
            role: processes[role].describe()
            for role in ("sidecar", "central", "postgres")
            if role in processes
        },
    }


def published_users() -> list[User]:
    """The users of the sample world that the file has a token of."""
    return [user for user in WORLD.all_users() if user.name in PUBLISHED_USERS]


def account(user: User) -> Account:
    """The user with a new token."""
    token = mint(user.user_id, user.role, name=user.name, email=user.email)
    return {"user_id": user.user_id, "token": token}


class ReadyFile:
    """The file of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(self) -> None:
        """Remove the file of an earlier run. DevProblem if the file cannot be written later."""
        folder = self._path.absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or self._path.is_dir():
            raise DevProblem(f"The ready file {self._path} cannot be written.")
        self.remove()

    def write(self, ready: Ready) -> None:
        """Write it whole or not at all."""
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(ready, file, indent=2)
                file.write("\n")
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
