"""Where a JWKS comes from: a file, or the issuer's URL. The only HTTP client of central.

A key set decides who may do what, so the fetch trusts little: no redirect is followed, no
proxy of the environment is used, nothing is decompressed, and what is too long or comes too
slowly is given up.
"""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import aiohttp

from central.auth_settings import JwksSettings

MAX_BYTES = 512 * 1024
"""Hundreds of keys. Issuers publish two or three."""


class FetchFailed(Exception):
    """Why the key set could not be had, for the log and `doctor`."""


class JwksSource(Protocol):
    async def fetch(self) -> bytes:
        """The document as it is now. Raises `FetchFailed`."""


class FileSource:
    """A file that somebody else keeps up to date (a mounted ConfigMap or Secret)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self) -> bytes:
        try:
            return await asyncio.to_thread(_read, self._path)
        except OSError as error:
            raise FetchFailed(f"{self._path}: {error.strerror}") from error


class UrlSource:
    """An issuer's `jwks_uri`."""

    def __init__(self, settings: JwksSettings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None

    async def fetch(self) -> bytes:
        settings = self._settings
        try:
            headers = await self._headers()
            async with (
                asyncio.timeout(settings.timeout_s),
                self._session() as session,
                session.get(settings.location, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise FetchFailed(f"the issuer answered {response.status}, expected 200")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise FetchFailed("the issuer answered compressed, though not asked to")
                return await _body(response)
        except TimeoutError as error:
            raise FetchFailed(f"no answer within {settings.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchFailed(f"{type(error).__name__}: {error}") from error

    def _session(self) -> aiohttp.ClientSession:
        # One session a fetch: fetches are minutes apart, and nothing is carried between them.
        if self._context is None and self._settings.location.startswith("https:"):
            self._context = ssl.create_default_context(cafile=self._settings.ca_file)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def _headers(self) -> Mapping[str, str]:
        # Kubernetes knows no other type than the first, and answers 406 without it.
        accepted = "application/jwk-set+json, application/json"
        headers = {"Accept": accepted, "Accept-Encoding": "identity"}
        if self._settings.bearer_file is not None:
            # Kubernetes shows its key set to holders of a token, and renews the file.
            token = await asyncio.to_thread(_read, self._settings.bearer_file)
            headers["Authorization"] = f"Bearer {token.decode('ascii').strip()}"
        return headers


def source_of(settings: JwksSettings) -> JwksSource:
    if settings.location.startswith(("http://", "https://")):
        return UrlSource(settings)
    return FileSource(Path(settings.location))


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            raise FetchFailed(f"the document has more than {MAX_BYTES} bytes")
    return bytes(body)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise FetchFailed(f"{path} has more than {MAX_BYTES} bytes")
    return text
