"""`sidecar rotate-key`: the running sidecar replaces its key, whatever its age.

For a key that may be known to somebody. It only leaves a request in the volume, for whoever holds
the spool's lock makes the keys; without a running sidecar the next start fulfils it. Exit codes: 0
replaced, 66 the volume has no key yet, 75 not replaced within the timeout: the request remains.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sidecar.settings import Settings
from sidecar.upstream.key_rotation import CHECK_PERIOD_S, REQUEST_FILE_NAME
from sidecar.upstream.source_identity import SourceIdentity, has_key

EXIT_NO_INPUT = 66
EXIT_PENDING = 75
DEFAULT_TIMEOUT_S = 60.0
POLL_S = 0.2


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "rotate-key",
        help="replace this sidecar's key by a new one",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long to wait for it (default {DEFAULT_TIMEOUT_S:g}); it looks for requests every"
        f" {CHECK_PERIOD_S:g} s",
    )


def run(
    options: argparse.Namespace,
    variables: Mapping[str, str],
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Raises `SettingsError`, and OSError for an unusable volume."""
    settings = Settings.from_environment(variables)
    directory = settings.spool_dir
    if not has_key(directory):
        print(f"{directory} has no key: the first `serve` creates it", file=sys.stderr)
        return EXIT_NO_INPUT
    old_id = _source_id(directory)
    (directory / REQUEST_FILE_NAME).touch(mode=0o600)
    deadline = monotonic() + options.timeout_s
    while (source_id := _source_id(directory)) == old_id:
        if monotonic() >= deadline:
            print("not replaced yet; the log of the sidecar says why", file=sys.stderr)
            return EXIT_PENDING
        sleep(POLL_S)
    print(f"{old_id} was replaced by {source_id}")
    return 0


def _source_id(directory: Path) -> str:
    return SourceIdentity.from_volume(directory, "").source_id
