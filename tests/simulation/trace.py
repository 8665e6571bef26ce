"""What happened in a run, as one digest: two runs of a seed have the same."""

import hashlib


class Trace:
    def __init__(self, *, is_kept: bool = False) -> None:
        self.lines: list[str] = []
        self._is_kept = is_kept
        self._digest = hashlib.sha256()

    def add(self, at_s: float, *what: object) -> None:
        line = f"{at_s:.6f} {' '.join(map(str, what))}"
        self._digest.update(line.encode() + b"\n")
        if self._is_kept:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()
