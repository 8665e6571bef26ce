"""`sidecar flush | drain | log-level`: what an operator may ask of a running sidecar.

flush      waits until all that waits in the spool now is settled. Reads the spool only: delivery
           never rests, so there is nothing to ask for. Exit code 75 if writes are left.
drain      ends the sidecar as SIGTERM does, and waits: it delivers for `SIDECAR_DRAIN_TIMEOUT_S`.
           Exit code 75 if writes are left. In a pod, Kubernetes starts it again.
log-level  `debug`, or `configured`, until the next change (ADR 62).
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from kit.http.ops_client import (
    EXIT_UNAVAILABLE,
    NotRunning,
    add_log_level_parser,
    run_log_level,
    send_signal,
)
from sidecar.lifecycle import EXIT_UNDELIVERED
from sidecar.settings import Settings
from sidecar.spool.inspect import NoSpool, Unreadable, inspected
from sidecar.spool.lock import is_held

EXIT_NO_INPUT = 66
"""There is no spool that can be read (EX_NOINPUT)."""
DEFAULT_FLUSH_S = 30.0
DRAIN_GRACE_S = 10.0
"""Beyond the drain itself: to close listeners and the spool."""
POLL_PERIOD_S = 0.1


def add_parsers(commands: Any) -> None:
    flush = commands.add_parser("flush", help="wait until all that waits now is settled")
    flush.add_argument("--timeout", metavar="SECONDS", type=float, default=DEFAULT_FLUSH_S)
    commands.add_parser("drain", help="end the sidecar as SIGTERM does, and wait")
    add_log_level_parser(commands)


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`."""
    settings = Settings.from_environment(variables)
    if options.command == "log-level":
        return run_log_level("sidecar", settings.ops_listen, options.level)
    try:
        if options.command == "flush":
            return _flush(settings, options.timeout)
        return _drain(settings)
    except (NoSpool, Unreadable) as error:
        print(f"sidecar {options.command}: {error}", file=sys.stderr)
        return EXIT_NO_INPUT
    except (NotRunning, OSError) as error:
        print(f"sidecar {options.command}: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE


def _flush(settings: Settings, timeout_s: float) -> int:
    with inspected(settings.spool_dir) as spool:
        last_seq = spool.last_waiting_seq()
    left = 0

    def is_settled() -> bool:
        nonlocal left
        with inspected(settings.spool_dir) as spool:
            left = spool.count_waiting(last_seq)
        return not left

    return _report(_poll(is_settled, timeout_s), left)


def _drain(settings: Settings) -> int:
    pid = send_signal(settings.ops_listen, signal.SIGTERM)
    print(f"process {pid} drains", flush=True)
    timeout_s = settings.drain_timeout_s + DRAIN_GRACE_S
    has_ended = _poll(lambda: not is_held(settings.spool_dir), timeout_s)
    with inspected(settings.spool_dir) as spool:
        left = spool.summary()["waiting"]
    return _report(has_ended, left)


def _report(is_done: bool, left: int) -> int:
    print(f"{left} writes are left in the spool" if left else "all is delivered")
    return 0 if is_done and not left else EXIT_UNDELIVERED


def _poll(
    is_done: Callable[[], bool],
    timeout_s: float,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    deadline = monotonic() + timeout_s
    while not is_done():
        if monotonic() >= deadline:
            return False
        sleep(POLL_PERIOD_S)
    return True
