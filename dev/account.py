"""The system user that Postgres runs as. It refuses to run as root, so root lends it `nobody`."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dev.problems import DevProblem
from dev.tether import death_signal, set_death_signal


@dataclass(frozen=True)
class Account:
    """A user and its group. `borrowed` when it is not the user this process runs as."""

    uid: int
    gid: int
    borrowed: bool

    def may_enter(self, folder: Path) -> bool:
        """May this user go into the folder, and so through all its parents?"""
        return self.run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]).returncode == 0

    def owns(self, folder: Path) -> None:
        """Make `folder` this user's, closed to everybody else."""
        folder.chmod(0o700)
        if self.borrowed:
            os.chown(folder, self.uid, self.gid)

    def owns_tree(self, folder: Path) -> None:
        """Make `folder` and everything in it this user's."""
        if not self.borrowed:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        """Run `command` as this user and wait for it. OSError when this user cannot reach it."""
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd="/",  # the caller's folder may be closed to this user
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            user=self.uid if self.borrowed else None,
            group=self.gid if self.borrowed else None,
            extra_groups=[] if self.borrowed else None,
        )

    def become(self) -> None:
        """Turn this process into this user, for good, keeping the parent-death signal."""
        if not self.borrowed:
            return
        signal_number = death_signal()
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)
        set_death_signal(signal_number)  # the change of user cleared it


def postgres_account() -> Account:
    """The user to run Postgres as: this one, or `nobody` for root."""
    uid = os.geteuid()
    if uid != 0:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise DevProblem(
                f"The user id {uid} has no entry in the user database, and Postgres' initdb "
                "refuses to run without one. Run as a user that has an entry, or give the URL of "
                "a database of your own with --database-url."
            ) from None
        return Account(uid, entry.pw_gid, borrowed=False)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise DevProblem(
            "Postgres refuses to run as root and this system has no user 'nobody' to run it as. "
            "Run as an ordinary user, or give the URL of a database of your own with "
            "--database-url."
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid, borrowed=True)
