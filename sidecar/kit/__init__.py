"""What every HTTP service of this house is made of: settings, problems, routes, logs, ops.

`sidecar/kit` and `central/kit` are the same text, byte for byte, and a house test keeps
them so: the two services are released apart and must not import each other (ADR 0003).
Change one, copy it to the other.
"""
