"""Who calls: a user by Texera's token, a sidecar by its own key.

A user's token says who asks; it is Texera's, signed with the deployment's secret. A sidecar's
assertion says through which source the call comes and vouches for exactly this call; its key
pair is the sidecar's own, and the key's thumbprint is the name it is known by. The first
authorizes reads and bindings, the second authorizes what was bound, long after the token
expired. Neither says what the caller may do with a row: the store's statements decide that.
"""
