"""Showing how a run goes on: a progress bar on a terminal, plain lines elsewhere, or nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from dev.computing_unit import ProgressReporter


class NullReporter:
    """Says nothing: for scripts that want JSON only."""

    def say(self, sentence: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        pass


class Lines:
    """A line per event, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, sentence: str) -> None:
        print(f"  {sentence}", file=self._stream, flush=True)

    def advance(self, done: int, total: int) -> None:
        pass


class Bar:
    """Events scroll by above a bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def say(self, sentence: str) -> None:
        self._progress.console.print(f"  {sentence}", highlight=False, markup=False)

    def advance(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def narrating(stream: TextIO, what: str, *, silent: bool) -> Iterator[ProgressReporter]:
    """The narrator that fits the stream."""
    if silent:
        yield NullReporter()
    elif not stream.isatty():
        yield Lines(stream)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=Console(file=stream), transient=True) as progress:
            yield Bar(progress, progress.add_task(what, total=None))
