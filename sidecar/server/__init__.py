"""The local API's server: an asyncio protocol in front of aiohttp, with two fast paths.

Polls for cached values and writes to one running execution are most of a sidecar's load, and
nearly all of their cost is the way through aiohttp: parsing, routing, middlewares, building a
response. Both repeat the head of an earlier request, so both are recognised by comparing bytes:

- `response_cache.py` stores whole responses by request head. A response is served only while its
  `Validity` holds (`cache/invalidation.py`): a write, an eviction, a refusal, or the end of the
  value's or the grant's term invalidates it, so nothing is served that the application would not
  serve;
- `write_fast_path.py` stores what the application made of a write's head. A later request with
  this head goes on from there with its own body, by the functions that aiohttp's way leads to.

No decision is made here. Everything that is not recognised byte for byte goes to aiohttp.
`SIDECAR_RESPONSE_CACHE=false` sends everything to aiohttp.

## Where a request ends

`framing.py` alone decides it. aiohttp parses a delegated request, and the framer follows the same
bytes so that the connection knows when the next request begins. If the framer cannot tell, the
connection is aiohttp's until it closes: guessing is how requests are smuggled.

## States of a connection (`protocol.py`)

                     cached GET: response written at once
                        .----.
                        v    |
    accepted --------> IDLE --'
                      |  ^  |
       known write    |  |  |  any other request
              .-------'  |  '-------.
              v          |          v
          REPLAYING -----+----- DELEGATED ------> AIOHTTP ONLY
              |                     ^    framing ambiguous,
              '---------------------'    or response before
               NeedsFullRequest          the request's end

- IDLE: no request is in progress.
- REPLAYING: a known write is running; bytes that arrive behind it are buffered.
- DELEGATED: aiohttp gets every byte. When it has responded to a completely received request, the
  connection is IDLE again, and the response or call may be stored.
- AIOHTTP ONLY: aiohttp gets every byte until the connection closes.
"""
