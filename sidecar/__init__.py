"""The sidecar: a computing unit's localhost API for its execution metadata.

It holds no secret but a key pair of its own, speaks no SQL, and loses no write it has
acknowledged (docs/architecture.md).
"""

__version__ = "0.1.0"
