"""Delivery: the one loop that sends spooled writes to central in batches.

# The truth

The spool's file. A batch's members are fixed there before it is first sent, and stay the batch in
flight until its outcomes are settled there. This package keeps timers and waiters only: after a
restart the same batch is sent again, byte for byte, and central answers it from its cursor.

# States

One batch is in flight at most.

               a write is due, the interval is over
      +------+       +----------------------+       +---------+
      | idle | ----> | cut, or one in flight | ----> | sending | -------------------+
      +------+       +----------------------+       +---------+                    |
         ^                      ^                        |                         |
         |                      |      200: outcomes are settled, or               |
         +----------------------+----- 409 batch-out-of-step: a new epoch <--------+
                                |                                                  |
                                |      unreachable, 429, 503                       |
                                +----- backing off <-------------------------------+
                                |                                                  |
                                |      413, too slow: withdrawn, and cut anew      |
                                +--------------------------------------------------+
                                |                                                  |
                                |      any other response to the whole call        |
                                +----- parked <------------------------------------+

- **idle**: nothing is due. The next write is cut in the commit that stores it.
- **sending**: the batch has left. While more comes, the next is cut `MIN_BATCH_INTERVAL_S` after
  this one (`pacing`), so that writes gather; a run's end or a waiter cuts it at once.
- **backing off**: full jitter, plus `Retry-After` up to a minute. After central was unreachable the
  first batches are small and double with each success (slow start): a whole fleet has its backlog
  ready at that time.
- **too large** (413, of a proxy with a limit of its own; or more than 64 KiB that did not get
  through in time three times, as on a thin link): whether central has an earlier copy of the batch
  is unknown, so it is withdrawn: an empty batch takes its number. If central had applied it, the
  response is its outcomes, which are settled; else its members are cut anew, half as many bytes
  under the next number. Later batches are small too, and grow slowly. A single write that is too
  large is parked; an operator may skip it, and it is withdrawn at the next start.
- **parked**: a 401, a proxy's page, a 200 that does not fit the batch. No single write is at fault,
  so none is dropped: retried with a longer backoff, with a log line and a metric.
- **draining**: not a state of its own. From `begin_drain` on nothing waits for more to come, a
  backoff ends early once, and `run` returns when the spool is empty.

There is no other retry layer: `Central.deliver` sends once.

# Outcomes

Each member of an answered batch is committed, refused or deferred. A deferred one (its row is
locked by another session) stays first in its execution's queue and is cut again after a short
delay; other executions go on. A refusal because the binding was revoked, the user demoted or the
row deleted also withdraws what admitted the write, in the commit that settles it, so that the next
write is authorized at central again and its caller gets the reason.

The `SettlementListener` (the caches) is notified in the same step in which the spool's index
drops the entries: no reader finds a write neither pending nor in the cache. Waiters come after. A
listener that fails does not stop delivery: it is counted, and all that is cached is discarded.

# What may be lost

Nothing that is on disk. A settlement is not synced: after a power cut the batch is sent again and
answered as before. After a new epoch what was unsettled is delivered at least once.

A database that loses commits in a failover loses settled writes, which are not sent again. The
next batch is out of step then. If central's cursor is behind the last settled batch of the epoch,
an error names the batches in between and `sidecar_forgotten_batches_total` counts them. (A cursor
that retention deleted looks the same: "may be lost".) `GET /v1/writes` still says `committed`, and
a sidecar that sends nothing more does not find out.
"""
