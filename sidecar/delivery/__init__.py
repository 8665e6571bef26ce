"""Delivery: the one loop that brings spooled writes to central.

One batch is in flight. The next is cut when it returns: without delay when idle, after a short
rest (`rest`) and larger under load. A batch is sent again, byte for byte, until central has
answered it; only the answers below end it.

    200 outcomes           each member is settled: committed, refused, or deferred
    409 batch-out-of-step  central's cursor is elsewhere (a rescued or restored spool):
                           a new epoch begins and what is unsettled is cut anew

Everything else leaves the batch where it is. 429 and 503 wait as told, for a minute at most;
central unreachable waits with full jitter. Any other answer to the whole call *parks* delivery:
a 401, a proxy's page, a 200 that is not an answer to this batch. Parked, it goes on trying, says
so in log and metric, and drops nothing. There is no retry layer but this one. After an outage
the first batches are small and double with each answer (slow start): a whole fleet has its backlog
ready at that moment.

A deferred member (its row is locked by someone else) stays first in its execution's queue
and is cut again after a short hold; other executions go on.

A refusal may say more than that one write is wrong. One for a binding that was revoked, a user
who was demoted or a row that is gone takes back what admitted the write (`spool/bindings`), in
the commit that settles it, so that the next write asks central again and its caller hears why.
"""
