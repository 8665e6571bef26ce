"""The whole system on one machine: embedded Postgres, Texera's schema with a sample world, both
services, a computing unit that replays a workflow file, benchmarks. Nothing here ships.

`dev` imports neither service: it starts them as processes and calls them through the computing
unit's client, which is imported from this clone and need not be installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "clients" / "python"))
