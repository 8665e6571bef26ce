"""A typed client of the local API, for Python on the computing unit.

    from sidecar.client import Client, calls

    with Client(token=token) as client:
        run = client.send(calls.create_execution(101, 201, "1.2"))
        client.send(calls.change_execution(run.execution_id, status="RUNNING"))

What a call is and what it answers is in `calls` and `answers`; `Client` and `AsyncClient` only
bring them over. `Client` needs nothing but the standard library, `AsyncClient` aiohttp.
"""

from sidecar.client import answers, calls
from sidecar.client.blocking import Client
from sidecar.client.exchange import ApiProblem, Unreachable

__all__ = ["ApiProblem", "Client", "Unreachable", "answers", "calls"]
