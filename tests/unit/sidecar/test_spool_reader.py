"""The reading connection sees one state of the file for as long as one read takes."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sidecar.spool.file import Reader


async def test_write_settled_between_two_statements_of_a_read_is_still_found(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spool.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        for statement in (
            "CREATE TABLE settled (seq INTEGER)",
            "CREATE TABLE entries (seq INTEGER)",
            "INSERT INTO entries VALUES (1)",
        ):
            writer.execute(statement)

        def find(connection: sqlite3.Connection) -> list[tuple[int]]:
            found = connection.execute("SELECT seq FROM settled").fetchall()
            writer.executescript(
                "BEGIN; DELETE FROM entries; INSERT INTO settled VALUES (1); COMMIT"
            )
            return found + connection.execute("SELECT seq FROM entries").fetchall()

        reader = Reader(path)
        reader.allow()
        first = await reader.read(find)
        second = await reader.read(
            lambda connection: connection.execute("SELECT seq FROM settled").fetchall()
        )
        await reader.close()

    assert first == [(1,)]
    assert second == [(1,)]
