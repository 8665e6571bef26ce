"""The system that the model of leases is compared with: two replicas over a database."""

from functools import partial

from central.api.executions import EXECUTIONS
from central.api.leases import BOOTS
from central.app import build_stores
from central.auth_settings import LimitSettings
from central.domain.callers import User
from central.wire.calls import ExecutionRequest, NewExecution
from central.wire.leases import ClosedExecutions
from dev.world import WORLD
from tests.integration.central import batching
from tests.integration.central.batching import Connection
from tests.integration.central.lease_fixtures import LEASE_S, Replica
from tests.integration.central.lease_model import UNITS

RUNNERS = {
    "a": (WORLD.owner, WORLD.workflow_id),
    "a2": (WORLD.owner, WORLD.workflow_id),
    "b": (WORLD.stranger, WORLD.public_workflow_id),
}


class Database:
    """Two replicas, and the calls that a sidecar makes to them."""

    def __init__(
        self, connection: Connection, replicas: list[Replica], batches: batching.Replica
    ) -> None:
        self.connection = connection
        self.replicas = replicas
        self.batches = batches
        unlimited = LimitSettings(user_open_bindings=0, source_open_bindings=0)
        known = build_stores(replicas[0].database, replicas[0].metrics, LEASE_S, unlimited)
        self.executions, self.boots = known[EXECUTIONS], known[BOOTS]

    async def create(self, sidecar: str, boot: str | None) -> int:
        person, workflow_id = RUNNERS[sidecar]
        user = User(person.user_id, person.role, 2**31)
        request = ExecutionRequest(workflow_id, UNITS[sidecar], "test", boot_id=boot)
        work = partial(self.executions.create, user=user, source_id=sidecar, request=request)
        created: NewExecution = await self.replicas[0].database.run(work)
        return created.execution_id

    async def boot(self, sidecar: str, boot: str) -> list[int]:
        person, _ = RUNNERS[sidecar]
        user = User(person.user_id, person.role, 2**31)
        work = partial(
            self.boots.register, user=user, source_id=sidecar, unit_id=UNITS[sidecar], boot_id=boot
        )
        response: ClosedExecutions = await self.replicas[1].database.run(work)
        return response.closed
