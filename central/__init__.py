"""The authority: the one service that holds database credentials and verifies tokens."""

__version__ = "0.1.0"
