"""The index of queues, alone."""

from sidecar.spool.entry import Entry, Priority
from sidecar.spool.queue_index import DEFER_BASE_S, DEFER_MAX_S, QueueIndex

EID = 7


def test_the_delay_of_a_deferred_execution_doubles_to_its_maximum_and_stays() -> None:
    queues = QueueIndex(coalesce_window_s=1.0)
    queues.add(Entry(1, EID, 1, "update_execution", Priority.STATUS, None, b"{}"), 0.0)
    delays_s = []

    for _ in range(3_000):  # a row that stays locked for an hour and a half
        queues.defer([EID], 0.0)
        delays_s.append(queues.next_due_at())

    assert delays_s[:3] == [DEFER_BASE_S, 2 * DEFER_BASE_S, 4 * DEFER_BASE_S]
    assert set(delays_s[6:]) == {DEFER_MAX_S}
