"""Our schema in numbered steps, forward only, and the role that `serve` logs in with."""


class MigrationFailed(Exception):
    """Why the database could not be prepared, in a sentence for whoever ran the command."""
