"""Leases: this sidecar's word to central that its computing unit's runs are alive.

The truth is central's: for each bound, unfinished execution it keeps until when the sidecar is
taken to be alive. Here they are renewed, all in one call, every `SIDECAR_LEASE_RENEW_S`, on a
connection of their own, so that no slow bulk call delays them; there is nothing durable about
it. Who is bound is the spool's to know (`spool/bindings.py`).

A lease speaks for the computing unit, not for the sidecar: it is renewed only while the unit
passes the check of `SIDECAR_CU_HEALTH`. A unit that is gone is looked at four times a period,
and its runs keep the time that is left of their leases to see it come back. Without the setting
the sidecar's own life counts. A boot says that a master is a new one, not that it is alive.

A master that restarts in place and tells no boot (a client that does not know of them) would have
its old runs renewed for ever. With `SIDECAR_FAIL_RUNS_ON_CU_RESTART` its going is noticed: where a
unit listens as long as it lives, refused connections mean that its process is not there, and
what ran in it does not come back with the next one. Those runs are not renewed again, and central
is told to end them, unless the unit writes to them first.

What can go wrong:
- central does not answer: tried again after a jittered backoff that stays well below a lease, so
  a fleet comes back spread over some seconds. Central fails nobody for its own silence.
- the sidecar is killed: its leases run on; the next start renews before anything else.
- a lease is lost: the run was closed, ended, revoked or bound elsewhere meanwhile. It is logged,
  counted and shown, and not asked for again. Writes go on as they would: if central closed the
  run for our silence, its own end will still replace that.
- the spool lost its memory (a damaged or a fresh file under an old key): central is asked what
  is open under our key, and those runs are renewed as well, lest we fail what is alive.

At its start a sidecar ends what an earlier life of its created and never heard of
(`abandoned.py`): the answer to a create was lost with the process, so no computing unit runs it.
Where the answer was lost and the process lived on, nobody renews that execution: it lapses, unless
the computing unit repeats the create with its key.
"""
