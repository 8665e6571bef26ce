"""Relations of users to executions, and the outcome of each access rule.

One table of facts (`SCENES`), one function per rule. The matrices of both services name a rule
for each of their routes; it gives the expected outcome for every user in every scene.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from dev.vfs_uri import console_uri, global_port_id, result_uri
from dev.world import WORLD, User

Outcome: TypeAlias = tuple[int, str]
"""HTTP status, and the slug of the problem if it is one."""

PORT = global_port_id("op-1", 0)


@dataclass(frozen=True)
class Scene:
    """An execution: its user, workflow and unit, and the grants of others on both."""

    name: str
    workflow_id: int
    computing_unit_id: int
    runner: User
    ended_execution_id: int
    """Another execution on that unit, long ended."""
    readers: frozenset[User]
    """Users with read access to the workflow; ADMIN reads everything."""
    unit: dict[User, Literal["READ", "WRITE"]] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


EVERYBODY = frozenset(WORLD.all_users())
OWNERS_UNIT: dict[User, Literal["READ", "WRITE"]] = {
    WORLD.owner: "WRITE",
    WORLD.writer: "WRITE",
    WORLD.colleague: "READ",
}
PRIVATE = Scene(
    "private workflow on a shared unit",
    WORLD.workflow_id,
    WORLD.computing_unit_id,
    WORLD.owner,
    WORLD.failed_execution_id,
    frozenset({WORLD.owner, WORLD.writer, WORLD.reader, WORLD.colleague}),
    OWNERS_UNIT,
)
SHARED = Scene(
    "another user's run on the shared unit",
    WORLD.workflow_id,
    WORLD.computing_unit_id,
    WORLD.writer,
    WORLD.failed_execution_id,
    PRIVATE.readers,
    OWNERS_UNIT,
)
PUBLIC = Scene(
    "public workflow on the shared unit",
    WORLD.public_workflow_id,
    WORLD.computing_unit_id,
    WORLD.owner,
    WORLD.public_execution_id,
    EVERYBODY,
    OWNERS_UNIT,
)
OTHER_UNIT = Scene(
    "public workflow on another unit",
    WORLD.public_workflow_id,
    WORLD.other_computing_unit_id,
    WORLD.stranger,
    WORLD.other_unit_execution_id,
    EVERYBODY,
    {WORLD.stranger: "WRITE"},
)
SCENES = (PRIVATE, SHARED, PUBLIC, OTHER_UNIT)

Rule: TypeAlias = Callable[[Scene, User], Outcome]
DONE: Outcome = (200, "")


def anyone(scene: Scene, user: User) -> Outcome:
    if user.role not in {"REGULAR", "ADMIN"}:
        return (403, "role-not-allowed")
    return DONE


def _read(scene: Scene, user: User, missing: str) -> Outcome:
    if (refused := anyone(scene, user)) != DONE:
        return refused
    return DONE if user in scene.readers or user.role == "ADMIN" else (404, missing)


def read_run(scene: Scene, user: User) -> Outcome:
    return _read(scene, user, "execution-not-found")


def read_workflow(scene: Scene, user: User) -> Outcome:
    return _read(scene, user, "workflow-not-found")


def write(scene: Scene, user: User) -> Outcome:
    """The execution's own user only; ADMIN needs the same."""
    if (refused := read_run(scene, user)) != DONE:
        return refused
    return DONE if user == scene.runner else (403, "not-the-executions-user")


def select(scene: Scene, user: User) -> Outcome:
    """Like a write, of executions selected within a workflow."""
    if (refused := read_workflow(scene, user)) != DONE:
        return refused
    return write(scene, user)


def create(scene: Scene, user: User) -> Outcome:
    """READ on the workflow and WRITE on the unit; ADMIN sees both and needs the same grants."""
    if (refused := read_workflow(scene, user)) != DONE:
        return refused
    if user not in scene.readers:
        return (403, "workflow-forbidden")
    return act_on_unit(scene, user)


def act_on_unit(scene: Scene, user: User) -> Outcome:
    if (refused := see_unit(scene, user)) != DONE:
        return refused
    return DONE if scene.unit.get(user) == "WRITE" else (403, "computing-unit-forbidden")


def see_unit(scene: Scene, user: User) -> Outcome:
    if (refused := anyone(scene, user)) != DONE:
        return refused
    sees = user in scene.unit or user.role == "ADMIN"
    return DONE if sees else (404, "computing-unit-not-found")


def read_unit(scene: Scene, user: User) -> Outcome:
    """A read that needs WRITE on the unit; ADMIN reads everything."""
    return DONE if user.role == "ADMIN" else act_on_unit(scene, user)


def export(scene: Scene, user: User) -> Outcome:
    if (refused := read_workflow(scene, user)) != DONE:
        return refused
    return see_unit(scene, user)


def filled(value: Any, scene: Scene, execution_id: int) -> Any:
    """A target or a body with the scene's values for its placeholders, at any depth."""
    names: dict[str, Any] = {
        "{eid}": execution_id,
        "{wid}": scene.workflow_id,
        "{ended}": scene.ended_execution_id,
        "{cuid}": scene.computing_unit_id,
        "{port}": PORT,
        "{result_uri}": result_uri(scene.workflow_id, execution_id, PORT),
        "{console_uri}": console_uri(scene.workflow_id, execution_id, "op-1"),
        "{stats_uri}": f"vfs:///wid/{scene.workflow_id}/eid/{execution_id}/runtimestatistics",
    }
    if isinstance(value, dict):
        return {key: filled(item, scene, execution_id) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, scene, execution_id) for item in value]
    if isinstance(value, str) and value in names:
        return names[value]
    return value


def target(text: str, scene: Scene, execution_id: int) -> str:
    return text.format(
        eid=execution_id, wid=scene.workflow_id, cuid=scene.computing_unit_id, port=PORT
    )


def in_order(scene: Scene) -> list[User]:
    """All users, the most privileged last, so that their calls change no one else's outcome."""
    strength = {None: 0, "READ": 1, "WRITE": 2}
    return sorted(
        WORLD.all_users(),
        key=lambda user: (user == scene.runner, strength[scene.unit.get(user)], user.user_id),
    )
