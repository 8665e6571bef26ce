"""`python -m dev COMMAND ...`: each command is one module's `main(arguments) -> exit code`.

The module is imported only when its command runs, so that `token` loads no database driver and
`postgres`, which becomes the server, starts quickly.
"""

import importlib
import sys

from dev.problems import DevProblem

COMMANDS = {
    "up": ("dev.up", "start the whole system and leave it running"),
    "demo": ("dev.demo", "start it, replay one workflow, show what happened"),
    "bench": ("dev.bench.__main__", "measure, and write docs/benchmarks.md"),
    "replay": ("dev.replay", "be a computing unit that runs a workflow file"),
    "token": ("dev.tokens", "print a user's token"),
    "postgres": ("dev.postgres", "become the Postgres server of a run folder"),
    "latency": ("dev.latency", "forward TCP ports with an added round trip"),
    "cleanup": ("dev.processes", "wait for standard input to end, then end a run's processes"),
}


def usage() -> str:
    """One line per command."""
    lines = [f"  {name:<9} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(["usage: python -m dev COMMAND [--help]", "", *lines])


def main(arguments: list[str]) -> int:
    """Run one command; 0 is success, 1 a problem that was explained, 64 a wrong command line."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(usage())
        return 0 if arguments else 64
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"dev: no command {command!r}\n{usage()}", file=sys.stderr)
        return 64
    try:
        exit_code: int = importlib.import_module(COMMANDS[command][0]).main(rest)
    except DevProblem as problem:
        print(f"dev {command}: {problem}", file=sys.stderr)
        return 1
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
