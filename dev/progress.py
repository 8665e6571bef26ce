"""Reports the progress of a run: as a bar on a terminal, as lines elsewhere, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn


class ProgressReporter(Protocol):
    """Shows a run's progress to a person."""

    def event(self, sentence: str) -> None:
        """Something happened."""

    def advance(self, done: int, total: int) -> None:
        """`done` of the plan's `total` steps are done."""


class NullReporter:
    """Reports nothing: for scripts that want JSON only."""

    def event(self, sentence: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        pass


class LineReporter:
    """A line per event, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def event(self, sentence: str) -> None:
        print(f"  {sentence}", file=self._stream, flush=True)

    def advance(self, done: int, total: int) -> None:
        pass


class BarReporter:
    """Events scroll by above a bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def event(self, sentence: str) -> None:
        self._progress.console.print(f"  {sentence}", highlight=False, markup=False)

    def advance(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def progress_reporter(stream: TextIO, title: str, *, silent: bool) -> Iterator[ProgressReporter]:
    """The reporter that fits the stream."""
    if silent:
        yield NullReporter()
    elif not stream.isatty():
        yield LineReporter(stream)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=Console(file=stream), transient=True) as progress:
            yield BarReporter(progress, progress.add_task(title, total=None))
