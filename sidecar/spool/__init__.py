"""Writes acknowledged to the CU and not yet known to be committed.

# What is the truth

One SQLite file (`spool.sqlite3`, in WAL mode). Whatever the sidecar has promised is in it, and
synced. Everything in memory (`queue_index`, `bindings`) is an index of it, loaded at start and
changed in the order of the commits. One thread owns the writing connection (`writer`): writes that
arrive while a commit runs share the next one, so the disk's sync is paid once per group and never
waited for on purpose. Reads have a connection of their own, open only while the writer's is
(`file`). One process owns the directory (`lock`).

# An entry's states (`batches`)

    append        cut              settle
      -> durable -> in flight -+-> committed | refused      the last 10,000 stay readable
            ^                  |
            +-- deferred, -----+
                withdrawn

`append` returns the number once the commit has reached the disk. `cut` fixes the members and the
digest of the next batch before it is first sent; one batch is in flight, and it is sent again
unchanged until central has answered it. Order is kept per execution: a batch takes a prefix of an
execution's queue.

# Syncs

What was acknowledged and what was cut is synced before anyone learns of it; in an idle system both
share one commit (piggyback, `writer`). A settling is not synced: if the machine's power takes it,
the batch is in flight again, and central repeats its response.

After a failed sync nobody can know what of the log is on the disk. So everything that has the file
open is abandoned, and whoever opens a log, after a failure or at a start, first rewrites and syncs
it (`wal.rewrite_and_sync`). SQLite's own checkpoints ignore a failure, so the writer makes them.

# Exactly once

Central remembers, per (source, epoch), the number, the digest and the response of the last batch. A
crash between any two steps leads to the same batch being sent again, and to the stored response. A
batch that has to be cut anew (a proxy finds it too large, an operator skips a member) is withdrawn
first: central says whether it had applied it, and never will from then on.
When central answers that the batch is out of step, or when a file had to be rebuilt, a new epoch
starts and what is unsettled is cut again: from exactly once to at least once, which the log and
`sidecar_spool_epochs_total` say.

# Damage (`recovery`)

Every entry carries a checksum; a corrupted one ends as refused (`write-corrupted`). Of a file or
log that SQLite would not read whole, all rows that SQLite can reach are kept, the rest is
quarantined and counted, and the start is never stopped. A volume that is full, read-only or gone
refuses writes with a clear problem and is tried again with the next; a reserve file is released so
that terminal statuses still fit (`capacity`).

# What may be lost

Nothing that was acknowledged, as long as the volume lives and its disk honours fsync. A pod that is
deleted while central cannot be reached takes its volume, and what waited on it, with it.
"""
