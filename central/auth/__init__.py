"""Authentication: users by Texera's tokens, sidecars by assertions with their own keys.

A user's token is Texera's, signed with the deployment's secret or key set. A sidecar's assertion
names the source of a call and signs that call; the key's thumbprint is the source id. The token
authorizes reads and bindings; the assertion authorizes writes to what is bound, long after the
token has expired. What a caller may do with a row is decided by the store's statements.
"""
