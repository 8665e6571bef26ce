"""Central's values, kept in memory and shown only to tokens that central has granted them.

Names
-----
A *resource* is what access and writes are about: an execution (its id) or a workflow
(`workflow_key`). A *target* is the path and query of one read of central; the value it returns
is an execution's row, a workflow's operator costs, or an execution's whole registry of URIs,
from which look-ups by port and by operator are served.

    AccessCache        grants of central: (token digest, resource) -> fresh, stale, expired, unknown
    ResourceCache      values by target, bounded by bytes; applies this sidecar's own writes
    InvalidationToken  `is_valid` until its value or grant is replaced, evicted or revoked
    GenerationTable    one token per resource, replaced by every write to it
    SingleFlight       concurrent calls with one key are one call
    ReadThrough        puts these together for one kind of value
    LongPollHub        wakes reads that wait for a URI to appear

One read
--------
    ReadRequest --> AccessCache.state_of --- expired --------------------------> 401
                        |
                    ResourceCache.get ------ fresh grant and fresh value ------> hit
                        |
                        |  no grant, no value, or too old
                    SingleFlight, by (token digest, target, generation)
                        |
                    central, with the value's ETag -- unavailable or slow -----> stale, or 503
                        |
                    ResourceCache.put, unless the generation was invalidated --> miss
                        |
                    pending writes applied to a copy --------------------------> pending
                        |
                    ReadResult; a hit carries a Validity made of three invalidation tokens
                    (generation, value, grant) and two deadlines: the response cache serves
                    the encoded response for as long as it is valid

Invariants
----------
1. A token sees a cached value only after central granted it to that very token: flights are
   keyed by the token, grants by token and resource. A grant ends with the token's `exp`, and
   with central's next refusal of the resource to the token.
2. A stale grant is used only while central is away by the sidecar's own probe, never because a
   call was slow or failed. It shows what was cached before it lapsed, and its own user's pending
   writes.
3. Concurrent misses of one token are one call. A caller that leaves does not cancel it.
4. An acknowledged write is seen by every later read: it is read from the spool while pending and
   applied to the cached values when committed. The generation is invalidated at append and at
   settle; a fetch begun under an older generation is discarded and not shared with later callers.
5. A response is served again only while its three tokens are valid: whatever ends the value
   invalidates the token in the same step, so no copy outlives it.
"""
