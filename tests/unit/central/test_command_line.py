"""The command line of central, up to its settings."""

import pytest

from central.__main__ import main
from kit.http.settings import EXIT_USAGE


@pytest.mark.parametrize("command", [["bindings", "revoke", "--reason", "r"], ["audit", "ls"]])
def test_a_source_id_may_begin_with_a_dash(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thumbprint in 64 does. argparse took it for an option, and exited with 2."""
    monkeypatch.delenv("CENTRAL_DATABASE_URL", raising=False)

    assert main([*command, "--source", "-aVd0T"]) == EXIT_USAGE  # without settings
