"""The command line of `dev up`, and what it prints for a person."""

from pathlib import Path

import pytest

from dev.__main__ import main
from dev.ports import Ports
from dev.ready import describe
from dev.up import banner, parser


def test_ports_and_database_have_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEV_DATABASE_URL", raising=False)

    options = parser().parse_args([])

    assert (options.port_base, options.rtt_ms, options.database_url) == (7070, 0.0, None)


def test_environment_variable_gives_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEV_DATABASE_URL", "postgresql://me@db/empty")

    assert parser().parse_args([]).database_url == "postgresql://me@db/empty"


@pytest.mark.parametrize(
    "arguments",
    [["--port-base", "80"], ["--rtt-ms", "-1"], ["--set", "PATH=/tmp"], ["--set", "CENTRAL_X"]],
)
def test_invalid_option_value_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(arguments)

    assert arguments[0] in capsys.readouterr().err


def test_problem_is_printed_as_a_sentence_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code = main(["up", "--ready-file", str(tmp_path / "no" / "ready.json")])

    assert exit_code == 1
    assert capsys.readouterr().err.startswith("dev up: The ready file")


def test_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upp"]) == 64

    assert "  token " in capsys.readouterr().err


def test_banner_has_a_token_and_calls_to_copy() -> None:
    ready = describe(Ports(7070), "postgresql://x", {})

    text = banner(ready)

    assert f"TOKEN={ready['users']['owner']['token']}" in text
    assert (
        "'http://127.0.0.1:7070/v1/workflows/101/executions/latest?computing_unit_id=201'" in text
    )
    assert '-d \'{"workflow_id": 101, ' in text
