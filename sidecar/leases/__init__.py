"""Leases: the sidecar's statement to central that its computing unit's runs are alive.

# The truth

Central's. For each bound, unfinished execution it keeps until when the run is taken to be alive,
and fails what has lapsed. Nothing here is durable; which executions are bound is the spool's
knowledge (`spool/bindings.py`). All leases are renewed in one call every `SIDECAR_LEASE_RENEW_S`,
through a connection pool of its own, so that no slow bulk call delays it.

# States of one execution

       bound                     renewed each period
      -------> +------+ ------------------------------+
               | held | <-----------------------------+
               +------+
                |    ^
      central:  |    |  bound again; or, if unit-gone, the unit writes to it
      not yours |    |
      unit gone v    |
               +------+     unit-gone: a close is requested until central has responded
               | lost |     (not renewed any more; writes to it go on as before)
               +------+

- **Central says so**: closed, ended, revoked or bound elsewhere. Logged, counted, shown. If central
  closed the run because it lapsed, the run's own terminal status still replaces that. The
  bindings of all others are forgotten ten minutes later, unless central binds them again. Once a
  day central is asked about lost runs anew, as it may have forgotten a closed one by then.
- **unit-gone**: only with `SIDECAR_FAIL_RUNS_ON_CU_RESTART`. A master that restarts in place
  and registers no boot would have its old runs renewed for ever. Refused connections mean that its
  process is gone, and what ran in it does not return with the next one.

# States of the computing unit

A lease speaks for the unit, not for the sidecar: it is renewed only while the unit passes
`SIDECAR_CU_HEALTH` (`health_check`). A unit that fails is checked four times a period, and its
runs have the rest of their leases to see it return. Without the setting the sidecar's own life
counts. A boot says that a master is new, not that it is alive.

# Failures

- Central is unreachable: jittered backoff well below a lease, so that a fleet returns spread over
  some seconds. Central lets no lease lapse for its own outage.
- The sidecar is killed: its leases run on; the next start renews before anything else.
- The spool lost its bindings (a corrupted file, or a fresh one under an old key): central is asked
  what is open under this key, and that is renewed as well. The file keeps that they were lost until
  each of these executions is bound again or has ended; no start takes one for an orphan until then.
  What nobody has written to a day after the loss is **unclaimed**: an orphaned create from before.
- The response to a create was lost with the process: no unit runs that execution, so the next start
  closes it (`orphaned_creates`), if the spool has all its bindings. If the process lived on,
  nobody renews it and it lapses, unless the unit repeats the create with its idempotency key.
"""
