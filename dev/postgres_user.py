"""The system user that Postgres runs as. It refuses to run as root, so root uses `nobody`."""

import os
import pwd
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dev.parent_death import death_signal, set_death_signal
from dev.problems import DevProblem

# A unix socket's path has 107 bytes (unix(7)): /texera-dev-XXXXXXXX/postgres/.s.PGSQL.NNNNN is 44.
MAX_PARENT_PATH_BYTES = 63


@dataclass(frozen=True)
class OsUser:
    """A user and its group. `is_other`: not the user that this process runs as."""

    uid: int
    gid: int
    is_other: bool

    def may_enter(self, folder: Path) -> bool:
        """Whether this user can change into the folder, and so pass all its parents."""
        return self.run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]).returncode == 0

    def take_ownership(self, folder: Path) -> None:
        """Make `folder` this user's, closed to everybody else."""
        folder.chmod(0o700)
        if self.is_other:
            os.chown(folder, self.uid, self.gid)

    def take_ownership_of_tree(self, folder: Path) -> None:
        """Make `folder` and everything in it this user's."""
        if not self.is_other:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        """Run `command` as this user and wait for it. OSError if this user cannot reach it."""
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd="/",  # the caller's folder may be closed to this user
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
        )

    def drop_privileges(self) -> None:
        """Turn this process into this user's, for good; the parent-death signal is kept."""
        if not self.is_other:
            return
        signal_number = death_signal()
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)
        set_death_signal(signal_number)  # the change of user cleared it


def postgres_user() -> OsUser:
    """The user to run Postgres as: the current one, or `nobody` for root."""
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
        return OsUser(uid, entry.pw_gid, is_other=False)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise DevProblem(
            "Postgres refuses to run as root and this system has no user 'nobody' to run it as. "
            "Run as an ordinary user, or give the URL of a database of your own with "
            "--database-url."
        ) from None
    return OsUser(nobody.pw_uid, nobody.pw_gid, is_other=True)


def temporary_folder(user: OsUser) -> Path:
    """The system's temporary folder, or a common one if Postgres cannot use that.

    Postgres must be able to enter it and to make a socket in it, whose path length is limited.
    """
    usual = Path(tempfile.gettempdir()).resolve()
    for folder in (usual, Path("/tmp"), Path("/var/tmp")):  # noqa: S108 (mkdtemp follows)
        if len(os.fsencode(folder)) <= MAX_PARENT_PATH_BYTES and user.may_enter(folder):
            return folder
    return usual
