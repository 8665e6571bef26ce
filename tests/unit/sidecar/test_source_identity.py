"""The sidecar's key and the assertions it signs."""

import base64
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from nacl.signing import SigningKey

from sidecar.upstream.source_identity import (
    KEY_FILE_NAME,
    NEXT_KEY_FILE_NAME,
    SourceIdentity,
    adopt_next,
    base64url,
    key_to_pem,
    load_or_create,
    load_or_create_next,
)

AUDIENCE = "central"
NOW = 1_700_000_000.9


@pytest.fixture
def identity(tmp_path: Path) -> SourceIdentity:
    return SourceIdentity.from_volume(tmp_path, AUDIENCE)


def raw(text: str) -> bytes:
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def opened(assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of an assertion whose signature is that of the key it names."""
    signed, _, signature = assertion.rpartition(".")
    header, claims = (json.loads(raw(part)) for part in signed.split("."))
    key = Ed25519PublicKey.from_public_bytes(raw(header["jwk"]["x"]))
    key.verify(raw(signature), signed.encode())
    return header, claims


def test_the_key_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    load_or_create(tmp_path)

    mode = stat.S_IMODE((tmp_path / KEY_FILE_NAME).stat().st_mode)
    assert mode == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE_NAME]


def test_the_key_is_the_same_after_a_restart(tmp_path: Path) -> None:
    first = SourceIdentity.from_volume(tmp_path, AUDIENCE)
    again = SourceIdentity.from_volume(tmp_path, AUDIENCE)

    assert first.source_id == again.source_id
    assert first.assertion("GET", "/", b"", now=NOW) == again.assertion("GET", "/", b"", now=NOW)


def test_the_next_key_states_that_it_replaces_the_current_one(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    load_or_create_next(tmp_path)
    identity = SourceIdentity.from_volume(tmp_path, AUDIENCE)
    assert identity.next_key is not None
    old_id, new_id = identity.source_id, identity.next_key.source_id

    header, claims = opened(identity.succession(now=NOW))

    assert header["typ"] == "sidecar-succession+jwt"
    assert base64url(digest(json.dumps(header["jwk"], separators=(",", ":")).encode())) == new_id
    assert claims == {
        "aud": AUDIENCE,
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        "predecessor": old_id,
    }


def test_a_start_with_two_keys_uses_the_old_one_until_central_names_the_new(
    tmp_path: Path,
) -> None:
    old_id = SourceIdentity.from_volume(tmp_path, AUDIENCE).source_id
    load_or_create_next(tmp_path)
    identity = SourceIdentity.from_volume(tmp_path, AUDIENCE)
    assert identity.next_key is not None
    new_id = identity.next_key.source_id

    identity.accept_successor(None)
    identity.accept_successor("of-somebody-else")
    assert identity.source_id == old_id
    identity.accept_successor(new_id)

    assert identity.source_id == new_id
    header, _ = opened(identity.assertion("GET", "/", b"", now=NOW))
    assert base64url(digest(json.dumps(header["jwk"], separators=(",", ":")).encode())) == new_id


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    new = load_or_create_next(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    adopt_next(tmp_path)

    assert modes == {KEY_FILE_NAME: 0o600, NEXT_KEY_FILE_NAME: 0o600}
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE_NAME]
    assert load_or_create(tmp_path) == new


def test_each_volume_has_a_key_of_its_own(tmp_path: Path) -> None:
    directories = [tmp_path / name for name in "ab"]
    for directory in directories:
        directory.mkdir()

    assert len({load_or_create(directory).verify_key for directory in directories}) == 2


def test_an_unfinished_key_file_is_replaced(tmp_path: Path) -> None:
    unfinished = (tmp_path / KEY_FILE_NAME).with_suffix(".new")
    unfinished.write_bytes(b"half a k")
    unfinished.chmod(0o644)

    load_or_create(tmp_path)

    assert stat.S_IMODE((tmp_path / KEY_FILE_NAME).stat().st_mode) == 0o600


def test_the_key_file_is_compatible_with_other_libraries(tmp_path: Path) -> None:
    theirs = Ed25519PrivateKey.generate()
    pem = theirs.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / KEY_FILE_NAME).write_bytes(pem)

    ours = load_or_create(tmp_path)

    assert ours.verify_key.encode() == theirs.public_key().public_bytes_raw()
    assert ours.sign(b"message").signature == theirs.sign(b"message")
    assert key_to_pem(ours) == pem


def test_any_other_kind_of_key_is_refused(tmp_path: Path) -> None:
    elliptic, encrypted = generate_private_key(SECP256R1()), BestAvailableEncryption(b"pass")
    whole = key_to_pem(SigningKey.generate())
    contents = {
        "of another curve": elliptic.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        "encrypted": Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, encrypted
        ),
        "empty": b"",
        "no key": b"no key",
        "cut short": whole.replace(b"=\n", b"\n").replace(b"MC4C", b"MC4"),
        "no base64": whole.replace(b"MC4C", b"M"),
        "half": whole[: len(whole) // 2],
        "two": whole * 2,
    }
    for name, content in contents.items():
        (tmp_path / KEY_FILE_NAME).write_bytes(content)
        with pytest.raises(ValueError, match="no Ed25519 key"):
            pytest.fail(f"{name} was taken: {load_or_create(tmp_path)}")


def test_a_missing_directory_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        load_or_create(tmp_path / "none")


def test_the_source_id_is_the_thumbprint_of_the_public_key(identity: SourceIdentity) -> None:
    header, _ = opened(identity.assertion("GET", "/", b"", now=NOW))

    x = header["jwk"]["x"]
    jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'
    assert raw(identity.source_id) == digest(jwk.encode())
    assert header == {"alg": "EdDSA", "typ": "sidecar-assertion+jwt", "jwk": json.loads(jwk)}


def test_an_assertion_covers_the_whole_call_for_a_minute(identity: SourceIdentity) -> None:
    assertion = identity.assertion(
        "POST", "/v1/x?a=%20b", b"body", now=NOW, token="user's", idempotency_key="key"
    )

    _, claims = opened(assertion)
    assert raw(claims.pop("body_sha256")) == digest(b"body")
    assert raw(claims.pop("ath")) == digest(b"user's")
    assert claims == {
        "aud": AUDIENCE,
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        "htm": "POST",
        "htu": "/v1/x?a=%20b",
        "idempotency_key": "key",
    }
    assert "user's" not in assertion


def test_absent_parts_of_a_call_are_not_claimed(identity: SourceIdentity) -> None:
    _, claims = opened(identity.assertion("GET", "/", b"", now=NOW))

    assert claims.keys() == {"aud", "iat", "exp", "htm", "htu", "body_sha256"}


def test_a_modified_assertion_does_not_verify(identity: SourceIdentity) -> None:
    ours, other = (
        identity.assertion("GET", target, b"", now=NOW).split(".") for target in ("/a", "/b")
    )

    with pytest.raises(InvalidSignature):
        opened(".".join([ours[0], other[1], ours[2]]))
