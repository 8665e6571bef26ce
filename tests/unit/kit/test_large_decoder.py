"""Large documents are decoded beside the event loop, one at a time."""

import asyncio
import threading

import pytest

from kit.http.large_decoder import LargeDecoder


async def test_documents_are_decoded_one_at_a_time_and_never_by_the_loop() -> None:
    decoder, threads, decoding = LargeDecoder(), set(), threading.Semaphore(1)

    def decode(document: bytes) -> int:
        threads.add(threading.get_ident())
        assert decoding.acquire(blocking=False), "two at once"
        threading.Event().wait(0.01)
        decoding.release()
        return len(document)

    documents = [bytes(size) for size in range(5)]
    sizes = await asyncio.gather(*(decoder.decode(decode, each) for each in documents))

    assert sizes == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in threads


async def test_an_error_of_decoding_reaches_its_caller_alone() -> None:
    decoder = LargeDecoder()

    with pytest.raises(ValueError, match="invalid literal"):
        await decoder.decode(int, "x")

    assert await decoder.decode(int, "7") == 7
