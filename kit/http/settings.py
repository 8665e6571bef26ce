"""Settings from environment variables, with all errors reported at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

EXIT_USAGE = 64
"""The exit code for invalid settings (EX_USAGE of sysexits.h)."""


class SettingsError(Exception):
    """Settings are missing or invalid. `errors` has one line for each."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = tuple(errors)


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a listener. Port 0 asks the system for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class EnvReader:
    """Reads typed values under one prefix and collects their errors.

    Each method returns a usable value even after an error, so that one pass finds them all;
    `check` then raises them together. An empty value counts as not set.
    """

    def __init__(self, variables: Mapping[str, str], prefix: str) -> None:
        self._variables = variables
        self._prefix = prefix
        self._errors: list[str] = []

    def check(self) -> None:
        """Raises `SettingsError` with all errors so far."""
        if self._errors:
            raise SettingsError(self._errors)

    def error(self, name: str, expected: str) -> None:
        self._errors.append(f"{self._prefix}{name}: {expected}")

    def text(self, name: str, default: str | None = None) -> str:
        """The value; without a default it must be set."""
        value = self._variables.get(self._prefix + name, "")
        if value:
            return value
        if default is None:
            self.error(name, "must be set")
            return ""
        return default

    def optional_text(self, name: str) -> str | None:
        return self._variables.get(self._prefix + name, "") or None

    def optional_path(self, name: str) -> Path | None:
        text = self.optional_text(name)
        return Path(text) if text is not None else None

    def choice(self, name: str, default: str, choices: Sequence[str]) -> str:
        value = self.text(name, default).lower()
        if value not in choices:
            self.error(name, f"expected one of {', '.join(choices)}, got {value!r}")
            return default
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.text(name, "true" if default else "false").lower()
        if value not in {"true", "false"}:
            self.error(name, f"expected true or false, got {value!r}")
            return default
        return value == "true"

    def integer(self, name: str, default: int, minimum: int, maximum: int) -> int:
        text = self.text(name, str(default))
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            expected = f"expected a whole number from {minimum} to {maximum}"
            self.error(name, f"{expected}, got {text!r}")
            return default
        return value

    def seconds(self, name: str, default: float, minimum: float, maximum: float) -> float:
        return self._float(name, default, minimum, maximum, "seconds")

    def number(self, name: str, default: float, minimum: float, maximum: float) -> float:
        return self._float(name, default, minimum, maximum, "a number")

    def _float(self, name: str, default: float, minimum: float, maximum: float, unit: str) -> float:
        text = self.text(name, repr(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum:
            expected = f"expected {unit} from {minimum:g} to {maximum:g}"
            self.error(name, f"{expected}, got {text!r}")
            return default
        return value

    def address(self, name: str, default: str) -> Address:
        text = self.text(name, default)
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
            self.error(name, f"expected HOST:PORT, got {text!r}")
            return Address("127.0.0.1", 0)
        return Address(host, int(port))

    def path(self, name: str, default: str) -> Path:
        return Path(self.text(name, default))

    def url(self, name: str, schemes: Sequence[str]) -> str:
        """A URL of one of the schemes. The error never repeats it: URLs may hold secrets."""
        value = self.text(name)
        scheme, separator, rest = value.partition("://")
        if value and not (separator and rest and scheme in schemes):
            self.error(name, f"expected a URL that begins with {' or '.join(schemes)}://")
        return value


def without_secrets(url: str) -> str:
    """User, host, port and path of a URL, without password and options."""
    parts = urlsplit(url)
    role = f"{parts.username}@" if parts.username else ""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{role}{host}{port}{parts.path}"
