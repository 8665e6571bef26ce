"""Client of the computing-unit sidecar's API.

from cu_metadata_client import Client, calls

with Client(token=token) as client:
    run = client.send(calls.create_execution(101, 201, "1.2"))
    client.send(calls.update_execution(run.execution_id, status="RUNNING"))

calls, models   what can be sent, and what it returns
protocol        retries, deadlines, ETags: every decision of a client, without I/O
blocking, aio   the two transports; `aio` needs aiohttp, the rest the standard library alone
"""

from cu_metadata_client import calls, models
from cu_metadata_client.blocking import Client
from cu_metadata_client.errors import (
    Conflict,
    DeliveryTimeout,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    Problem,
    Unauthorized,
    Unreachable,
)

__all__ = [
    "Client",
    "Conflict",
    "DeliveryTimeout",
    "Forbidden",
    "InvalidRequest",
    "NotFound",
    "Overloaded",
    "Problem",
    "Unauthorized",
    "Unreachable",
    "calls",
    "models",
]
