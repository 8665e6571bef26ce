"""Decodes large documents off the event loop, one at a time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Document = TypeVar("Document")
T = TypeVar("T")

LARGE_BYTES = 64 * 1024
"""A smaller document takes the loop a millisecond, and the way to the thread and back costs a tenth
of that: it is decoded where it is."""


class LargeDecoder:
    """One thread, and one of these in a process.

    What a document decodes to may be many times its size, so that several at once would take as
    many times the memory. They would not be faster: decoding holds the interpreter's lock.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "large-documents")

    async def decode(self, decode: Callable[[Document], T], document: Document) -> T:
        """`decode(document)`, with its errors, once the documents before it are decoded."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, decode, document)
