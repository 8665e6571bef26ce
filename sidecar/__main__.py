"""`sidecar serve` runs the sidecar; the other commands look at one that runs, or at its spool."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TypeAlias

from kit.http import logs
from kit.http.service import run_service
from kit.http.settings import EXIT_USAGE, SettingsError
from sidecar import __version__
from sidecar.settings import Settings

Run: TypeAlias = Callable[[argparse.Namespace, Mapping[str, str]], int]


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="sidecar", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the sidecar (settings: SIDECAR_* of the environment)")
    try:
        if arguments == ["serve"]:
            return _serve()
        # Here, to save a running sidecar's memory.
        from sidecar.cli import control, doctor, rotate_key, spool, status

        for command in (status, spool, doctor, rotate_key):
            command.add_parser(commands)
        control.add_parsers(commands)
        options = parser.parse_args(arguments)
        if options.command == "serve":
            return _serve()
        runs: dict[str, Run] = {"status": status.run, "doctor": doctor.run}
        runs |= {"rotate-key": rotate_key.run, "spool": spool.run, "writes": spool.run}
        return runs.get(options.command, control.run)(options, os.environ)
    except SettingsError as error:
        print(*error.errors, sep="\n", file=sys.stderr)
        return EXIT_USAGE


def _serve() -> int:
    settings = Settings.from_environment(os.environ)
    logs.configure(settings.log_level)
    with _without_system_ca_bundle() if settings.central_url.startswith("http:") else nullcontext():
        from sidecar.lifecycle import serve

    return run_service(serve(settings))


@contextmanager
def _without_system_ca_bundle() -> Iterator[None]:
    """aiohttp loads the system's CA bundle at import (3.14): 2 MiB and tens of milliseconds, which
    a sidecar without TLS saves. Nothing may import aiohttp before this."""
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    known = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(known)


if __name__ == "__main__":
    sys.exit(main())
