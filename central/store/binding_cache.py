"""What is remembered of running executions: the facts of a binding, which never change.

Workflow, warehouse and user of a binding are what the fold needs to judge an entry. Whether the
execution still runs, and may still be written to, is never believed from here: the statement
that acts on it checks (`store/optimistic`).
"""

from collections.abc import Mapping

import msgspec
from cachetools import LRUCache

from central.domain.fold import Execution, WriterStatus
from kit.texera.statuses import TERMINAL_CODES, Status

REMEMBERED = 20_000
"""Bindings, about 300 bytes each; the least used one is forgotten and costs a slower batch."""


class BindingCache:
    """Executions by source and id, each as READY and without URIs."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._known: LRUCache[tuple[str, int], Execution] = LRUCache(remembered)

    def created(
        self,
        source_id: str,
        execution_id: int,
        *,
        user_id: int,
        workflow_id: int,
        warehouse: str | None,
    ) -> None:
        self._known[source_id, execution_id] = Execution(
            execution_id=execution_id,
            standing=WriterStatus.WRITER,
            user_id=user_id,
            workflow_id=workflow_id,
            warehouse=warehouse,
        )

    def learn(self, source_id: str, executions: Mapping[int, Execution]) -> None:
        """Takes what was read under lock; what has ended or may not be written to is forgotten."""
        for execution_id, execution in executions.items():
            if execution.standing is WriterStatus.WRITER and execution.status not in TERMINAL_CODES:
                self._known[source_id, execution_id] = msgspec.structs.replace(
                    execution, status=Status.READY.code, results={}, consoles={}
                )
            else:
                self._known.pop((source_id, execution_id), None)

    def get(self, source_id: str, execution_id: int) -> Execution | None:
        return self._known.get((source_id, execution_id))
