"""What the sidecar remembers of central's answers, and for whom.

Values are kept per resource, access per (token digest, resource): a token sees a remembered
value only after central has said yes for that very token, for at most a minute and never past
its `exp`. The value of an execution is its whole *registry* of URIs: one call fetches it, and
every look-up by port or operator is answered from it.

Coherence. The sidecar's own writes are applied to the registry when central has committed
them; until then they are read from the spool and laid over it. A key's generation moves when
a write is appended and when it settles: a fetch that began under an older generation is thrown
away and made anew, so an acknowledged write is never unseen by a later read.
"""
