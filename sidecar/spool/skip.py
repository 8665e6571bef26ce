"""Ending one waiting write by an operator's decision, in the spool of a stopped sidecar.

A write that nothing on the way to central lets pass (a proxy's limit, a row that stays locked)
holds up the writes behind it. Only an operator can decide that it is to be given up.
"""

from contextlib import closing
from pathlib import Path

from sidecar.spool import batches, recovery, schema
from sidecar.spool.entry import WriteRecord, seq_of_write_id
from sidecar.spool.inspect import NoSpool
from sidecar.spool.lock import SpoolLock
from sidecar.spool.queue_index import IndexSnapshot


def skip_write(directory: Path, name: str) -> list[WriteRecord]:
    """Ends a waiting write, and those that it replaced, as refused. Returns their records.

    One in flight stays durable until the next start has asked central whether it has its batch.
    `name` is a `write_id` or its number; none is returned if no such write waits. Raises `NoSpool`,
    `SpoolInUse` (a sidecar runs), and `UnknownFormat`, sqlite3.Error and OSError as at a start.
    """
    if not schema.has_spool(directory):
        raise NoSpool(f"no {schema.FILE_NAME} in {directory}")
    lock = SpoolLock(directory)
    lock.acquire()
    try:
        connection, wal_index, report = recovery.open_or_recover(directory)
        with closing(wal_index), closing(connection):
            snapshot = IndexSnapshot.of(connection)
            seq = seq_of_write_id(name, snapshot.spool_id, allow_number=True)
            if seq is None:
                return []
            connection.execute("BEGIN IMMEDIATE")
            # The next start finds a file that was closed, so the gap after a crash is kept here.
            schema.bump_max_seq(connection, snapshot.next_seq - 1 + report.seq_gap)
            records = batches.skip(connection, seq)
            connection.execute("COMMIT")
            return records
    finally:
        lock.release()
