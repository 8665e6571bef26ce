"""The index of queues, alone."""

from sidecar.spool.entry import Entry, Priority
from sidecar.spool.queue_index import DEFER_BASE_S, DEFER_MAX_S, QueueIndex

EID = 7


def write(seq: int, priority: Priority, made_at_ms: int, execution_id: int = EID) -> Entry:
    payload = b'{"seq":%d,"made_at_ms":%d}' % (seq, made_at_ms)
    return Entry(seq, execution_id, 1, "update_execution", priority, None, payload)


def test_the_oldest_write_of_a_priority_is_the_first_that_still_waits() -> None:
    queues = QueueIndex(coalesce_window_s=1.0)
    first, second = write(1, Priority.NORMAL, 1_000), write(2, Priority.STATUS, 5_000)
    elsewhere = write(3, Priority.NORMAL, 9_000, execution_id=8)
    for entry in (first, second, elsewhere):
        queues.add(entry, 0.0, entry.made_at_ms)

    oldest = [queues.oldest_ms(priority) for priority in Priority]
    queues.remove(first)
    queues.remove(second)

    assert oldest == [None, 5_000, None, 1_000]
    assert [queues.oldest_ms(priority) for priority in Priority] == [None, None, None, 9_000]


def test_a_trickle_behind_a_backlog_does_not_hide_its_age() -> None:
    """And the age falls with each settled write, as the next cannot be older."""
    queues = QueueIndex(coalesce_window_s=1.0)
    backlog = [write(seq, Priority.NORMAL, seq * 1_000) for seq in range(1, 901)]
    for entry in backlog:
        queues.add(entry, 0.0, entry.made_at_ms)

    shown = []
    for entry in backlog[:-1]:
        queues.remove(entry)
        shown.append(queues.oldest_ms(Priority.NORMAL))

    assert shown == [entry.made_at_ms for entry in backlog[:-1]]


def test_the_delay_of_a_deferred_execution_doubles_to_its_maximum_and_stays() -> None:
    queues = QueueIndex(coalesce_window_s=1.0)
    queues.add(Entry(1, EID, 1, "update_execution", Priority.STATUS, None, b"{}"), 0.0, 1)
    delays_s = []

    for _ in range(3_000):  # a row that stays locked for an hour and a half
        queues.defer([EID], 0.0)
        delays_s.append(queues.next_due_at())

    assert delays_s[:3] == [DEFER_BASE_S, 2 * DEFER_BASE_S, 4 * DEFER_BASE_S]
    assert set(delays_s[6:]) == {DEFER_MAX_S}
