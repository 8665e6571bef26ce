"""`python -m dev.kube`: fetches and builds all tools of the chart's tests."""

import sys

from dev.kube import binaries, tools
from dev.kube.tools import ToolMissing


def main() -> int:
    """0 if all are there; else 1, after a sentence for each that is missing."""
    code = 0
    for get in (tools.helm, tools.promtool, binaries.build, binaries.build_beta):
        try:
            print(get())
        except ToolMissing as missing:
            print(f"kube: {missing}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
