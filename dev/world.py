"""The sample world: users, their grants, and earlier executions.

Ids of different kinds never coincide (users below 100, workflows from 101, units from 201 ...), so
that code which confuses two kinds fails in a test instead of finding a row by chance. Every
execution has ended or is on the stranger's unit, so a new run on the owner's unit is not affected
by them. New rows get ids from 1001.
"""

from dataclasses import dataclass, fields

FIRST_NEW_ID = 1001


@dataclass(frozen=True)
class User:
    """A person with a Texera account."""

    user_id: int
    name: str
    role: str = "REGULAR"

    @property
    def email(self) -> str:
        return f"{self.name}@example.org"


@dataclass(frozen=True)
class World:
    """The ids of the sample world.

    The private workflow: owner WRITE, writer WRITE, reader READ, colleague READ through a project.
    The public workflow belongs to the stranger. The unit is the owner's, with a WRITE grant for
    writer and READ for colleague; the other unit is the stranger's. Admin, restricted and inactive
    have no grants; the roles of restricted and inactive permit no call.
    """

    owner: User = User(1, "owner")
    writer: User = User(2, "writer")
    reader: User = User(3, "reader")
    stranger: User = User(4, "stranger")
    admin: User = User(5, "admin", "ADMIN")
    restricted: User = User(6, "restricted", "RESTRICTED")
    colleague: User = User(7, "colleague")
    inactive: User = User(8, "inactive", "INACTIVE")

    workflow_id: int = 101
    public_workflow_id: int = 102
    computing_unit_id: int = 201
    other_computing_unit_id: int = 202
    project_id: int = 301

    version_id: int = 402
    """The latest version of the private workflow; 401 is the one before."""
    public_version_id: int = 403

    completed_execution_id: int = 502
    """Private workflow, owner's unit, by the owner: completed, with results and statistics."""
    failed_execution_id: int = 501
    """As above, a day earlier: failed, its log is still there (expired for a TTL of a day)."""
    public_execution_id: int = 503
    """Public workflow, owner's unit, by the owner: completed; it read the licensed dataset."""
    stuck_execution_id: int = 504
    """Public workflow, other unit, by the stranger: RUNNING for days, no sidecar bound it."""
    other_unit_execution_id: int = 505
    """Public workflow, other unit, by the stranger: completed."""

    dataset_id: int = 601
    """The owner's, downloadable."""
    licensed_dataset_id: int = 602
    """The stranger's, not downloadable: blocks what is computed from it."""

    def all_users(self) -> tuple[User, ...]:
        """All users, by id."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if isinstance(value, User))


WORLD = World()
