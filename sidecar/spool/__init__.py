"""Writes acknowledged to the CU and not yet known to be committed.

What is the truth. One SQLite file (`spool.sqlite3`, WAL, synchronous=FULL). Whatever the
sidecar has promised is in it; everything in memory is an index of it and is made again at
start, and changed in the order of the commits. One thread owns the connection (`committer`):
writers that arrive while a commit runs share the next one, so the disk's sync is paid once per
group and never waited for on purpose. Reads have a connection of their own (`reader`), open only
while the writer's is (`open_file`). One process owns the directory (`lock`).

An entry's life. `append` stores it and returns its number once the commit has reached the
disk: from then on it is *durable*. `cut` fixes the members and the digest of the next batch,
before the batch is first sent; there is one batch in flight, and a batch is sent again
unchanged until central has answered it. `settle` takes the answer: each member leaves as
*committed* or *refused*, or stays for a later batch (*deferred*). The last 10,000 settled
stay readable. Order is kept per execution: a batch takes a prefix of an execution's queue.

Syncs. What was acknowledged and what was cut is synced before anyone hears of it; in an idle
system both share one commit (`cut_with_next_append`). A settling is not: should the machine's
power take it, the batch is in flight again, and central answers it as before.

A sync that fails leaves it open what of the log is on the disk, and no later one says: the kernel
tells of it once. So everything that has the file open is abandoned, and whoever opens a log, after
a failure or at a start, writes it to the disk again first (`log.write_again`). SQLite's own way of
writing the log back says nothing of a failure, so the committer does it.

Exactly once. Central remembers, per (source, epoch), the number, the digest and the answer of
the last batch. A crash between any two steps leads to the same batch being sent again, and
to the stored answer. When central says that we are out of step, or when a file had to be
salvaged, a new epoch begins and what is unsettled is cut anew: from at-most to at-least once,
which the log and `sidecar_spool_epochs_total` say.

Damage. Every entry carries a checksum; a damaged one ends as refused (`write-corrupted`). A file or
log that SQLite would not read whole is read page by page (`carving`): what can be read is kept,
the rest set aside (`quarantine`) and counted, and the start never stopped. A volume that is
full, read-only or gone refuses writes with a clear answer and is tried again with the next; a
ballast file is given up so that terminal statuses still fit.

What may be lost. Nothing that was acknowledged, as long as the volume lives and its disk
honours fsync. A pod that is deleted while central cannot be reached takes its volume, and
what waited on it, with it.
"""
