"""What commands ask of the running service beside them: its ops listener and its process."""

import argparse
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Sequence
from typing import Any

from kit.http.settings import Address
from kit.tables import duration, print_table

TIMEOUT_S = 5.0
EXIT_UNAVAILABLE = 69
"""Nobody answers at the ops listener (EX_UNAVAILABLE)."""


class NotRunning(Exception):
    """No service answers at the ops listener."""


def read_status(address: Address) -> dict[str, Any]:
    """`/status` of the service that listens there, or, on a wildcard address, on loopback.

    Raises `NotRunning`.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    url = f"http://{Address(host, address.port)}/status"
    # Without proxies: the environment may name one, which does not reach this loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            document: dict[str, Any] = json.load(response)
            return document
    except (OSError, ValueError) as error:
        raise NotRunning(f"nobody answers at {url}: {error}") from error


def send_signal(address: Address, number: signal.Signals) -> int:
    """Sends it to the service that listens there, and returns its pid.

    Raises `NotRunning`; OSError if the process is another user's.
    """
    pid = int(read_status(address)["pid"])
    os.kill(pid, number)
    return pid


WATCH_PERIOD_S = 2.0
MAX_PROBLEMS = 10
LOG_LEVELS = {"debug": signal.SIGUSR1, "configured": signal.SIGUSR2}


def add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=float,
        nargs="?",
        const=WATCH_PERIOD_S,
        help=f"again and again until interrupted (every {WATCH_PERIOD_S:g} s)",
    )


def print_problems(problems: Sequence[dict[str, Any]]) -> None:
    """The `problems` of `/status`, the most recent first."""
    rows = [
        (duration(p["last_s_ago"]), p["level"], p["message"], p["reason"], p["count"])
        for p in problems[:MAX_PROBLEMS]
    ]
    if rows:
        print_table(("AGO", "LEVEL", "LAST PROBLEMS", "REASON", "COUNT"), rows)


def add_log_level_parser(commands: Any) -> None:
    parser = commands.add_parser("log-level", help="change the level of the running service")
    parser.add_argument("level", choices=LOG_LEVELS)


def run_log_level(prog: str, address: Address, level: str) -> int:
    """Asks the service that listens there, by a signal (ADR 62)."""
    try:
        pid = send_signal(address, LOG_LEVELS[level])
    except (NotRunning, OSError) as error:
        print(f"{prog} log-level: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    print(f"process {pid}: {level}")
    return 0
