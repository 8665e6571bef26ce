"""The front door: known requests are answered before a web framework sees them.

A poll for what is remembered is most of a sidecar's load, and nearly all its cost is the way
through aiohttp: parsing, routing, middlewares, building an answer that is the same each time.
So once the application has answered a request from memory, its head and its answer are kept
(`answers.py`), and a later request with the very same head is answered by one look-up in a
dict (`door.py`). Kept answers are bound to marks (`cache/marks.py`) that every write, eviction
and refusal takes away, and to the terms of the value and of the caller's access: what the
application would no longer answer is not answered here.

A write differs from the one before it in its body, so what is kept for its head is no answer but
the call from there on (`calls.py`): the very function that aiohttp's way leads to.

Nothing is decided here. A head is compared, not understood, save that three headers which
change from request to request and change nothing in a hit are cut out first. Whatever is not
known byte for byte goes to aiohttp as it came. `SIDECAR_RESPONSE_CACHE=false` leaves all this out.
"""
