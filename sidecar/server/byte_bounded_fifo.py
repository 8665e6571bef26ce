"""What the door keeps by the heads of requests: in bounded memory, the oldest leaving first."""

from typing import Generic, TypeVar

T = TypeVar("T")


class ByteBoundedFifo(Generic[T]):
    """Bounded by what its owner says that each thing takes; what is in use comes back."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: dict[bytes, tuple[T, int]] = {}
        self.size_bytes = 0

    def get(self, head: bytes) -> T | None:
        found = self._kept.get(head)
        return found[0] if found is not None else None

    def put(self, head: bytes, thing: T, size_bytes: int) -> None:
        """In the place of what was kept by this head. What is too large for all is not kept."""
        self.drop(head)
        if size_bytes > self._max_bytes:
            return
        self._kept[head] = (thing, size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            self.drop(next(iter(self._kept)))

    def drop(self, head: bytes) -> None:
        found = self._kept.pop(head, None)
        if found is not None:
            self.size_bytes -= found[1]
