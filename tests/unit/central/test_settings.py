"""Central's settings: all errors together, and no secret shown."""

import pytest

from central.settings import read_migrate_settings, read_settings
from kit.http.settings import SettingsError, without_secrets

ENOUGH = {
    "CENTRAL_DATABASE_URL": "postgresql://central:hidden@db:5432/texera_db?sslmode=require",
    "CENTRAL_JWT_SECRET": "The-Hidden-Secret",
}


def test_required_settings_suffice() -> None:
    settings = read_settings(ENOUGH)

    assert (str(settings.listen), str(settings.ops_listen)) == ("0.0.0.0:7080", "0.0.0.0:7081")
    assert settings.tokens.algorithms == ("HS256",)
    assert settings.tokens.lowercase_secret
    assert (settings.database.pool_min_size, settings.database.pool_max_size) == (2, 10)


def test_all_settings_errors_are_reported_together() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(
            {
                "CENTRAL_DATABASE_URL": "mysql://central:hidden@db/texera_db",
                "CENTRAL_JWT_ALGORITHMS": "none",
                "CENTRAL_LISTEN": "everywhere",
                "CENTRAL_POOL_MIN_SIZE": "11",
                "CENTRAL_LEASE_S": "soon",
                "CENTRAL_LOG_LEVEL": "loud",
            }
        )

    names = {fault.partition(":")[0] for fault in caught.value.errors}
    assert names == {
        "CENTRAL_DATABASE_URL",
        "CENTRAL_JWT_ALGORITHMS",
        "CENTRAL_JWT_SECRET",
        "CENTRAL_LISTEN",
        "CENTRAL_POOL_MIN_SIZE",
        "CENTRAL_LEASE_S",
        "CENTRAL_LOG_LEVEL",
    }
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("most", ["1", "999"])
def test_a_limit_below_a_full_batch_is_refused_before_it_parks_a_sidecar(most: str) -> None:
    with pytest.raises(SettingsError, match=r"LIMIT_BATCH_ENTRIES.*at least 1000"):
        read_settings(ENOUGH | {"CENTRAL_LIMIT_BATCH_ENTRIES": most})

    for enough in ("0", "1000"):
        read_settings(ENOUGH | {"CENTRAL_LIMIT_BATCH_ENTRIES": enough})


@pytest.mark.parametrize("secret", ["random", "RANDOM"])
def test_secret_random_is_refused(secret: str) -> None:
    with pytest.raises(SettingsError, match="CENTRAL_JWT_SECRET"):
        read_settings(ENOUGH | {"CENTRAL_JWT_SECRET": secret})


def test_public_key_algorithms_take_a_key_set_instead_of_a_secret() -> None:
    settings = read_settings(
        {
            "CENTRAL_DATABASE_URL": ENOUGH["CENTRAL_DATABASE_URL"],
            "CENTRAL_JWT_ALGORITHMS": "RS256, es256,EdDSA",
            "CENTRAL_JWT_JWKS": "https://user:hidden@idp/jwks?key=hidden",
        }
    )

    assert settings.tokens.algorithms == ("RS256", "ES256", "EdDSA")
    assert settings.describe()["jwt_jwks"] == "https://user@idp/jwks"


@pytest.mark.parametrize(
    ("variables", "faults"),
    [
        ({"JWT_ALGORITHMS": "HS256,RS256"}, ["JWT_ALGORITHMS"]),
        ({"JWT_ALGORITHMS": "HS256,none"}, ["JWT_ALGORITHMS"]),
        ({"JWT_ALGORITHMS": ","}, ["JWT_ALGORITHMS"]),
        ({"JWT_ALGORITHMS": "RS256"}, ["JWT_JWKS", "JWT_SECRET"]),
        ({"JWT_JWKS": "/etc/jwks.json"}, ["JWT_JWKS"]),
    ],
    ids=str,
)
def test_secrets_and_key_sets_are_not_mixed(variables: dict[str, str], faults: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(ENOUGH | {f"CENTRAL_{name}": value for name, value in variables.items()})

    names = {fault.partition(":")[0].removeprefix("CENTRAL_") for fault in caught.value.errors}
    assert sorted(names) == faults


@pytest.mark.parametrize(
    "keys",
    [
        "a:too-short",
        "no-kid-but-a-secret-that-is-long-enough",
        f"a b:{'s' * 32}",
        f"a:{'s' * 32},a:{'t' * 32}",
        f"a:{'s' * 32},",
        f"a:{'x' * 32}",
    ],
)
def test_keys_of_run_tokens_are_named_long_and_their_own(keys: str) -> None:
    with pytest.raises(SettingsError, match="CENTRAL_RUN_TOKEN_KEYS"):
        read_settings(ENOUGH | {"CENTRAL_JWT_SECRET": "X" * 32, "CENTRAL_RUN_TOKEN_KEYS": keys})


def test_description_contains_no_secret() -> None:
    settings = read_settings(ENOUGH | {"CENTRAL_RUN_TOKEN_KEYS": f"a:{'hidden' * 6}"})

    for text in (repr(settings), str(settings.describe())):
        assert "hidden" not in text.lower()
    assert settings.describe()["database_url"] == "postgresql://central@db:5432/texera_db"


@pytest.mark.parametrize(
    "url",
    ["postgresql://db:port/x", "postgresql://db:99999/x", "postgresql://[::1/x", "postgresql://"],
)
def test_malformed_url_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match="CENTRAL_DATABASE_URL"):
        read_settings(ENOUGH | {"CENTRAL_DATABASE_URL": url})


@pytest.mark.parametrize(
    ("owner", "role", "fault"),
    [
        ("", "postgresql://central:pw@db/x", "CENTRAL_OWNER_DATABASE_URL: must be set"),
        ("postgresql://owner:pw@db/x", "", "CENTRAL_DATABASE_URL: must be set"),
        ("postgresql://owner:pw@db/x", "postgresql://db/x", "the service's role"),
        ("postgresql://owner:pw@db/x", "postgresql://central@db/x", "and its password"),
        ("postgresql://owner:pw@db/x", "postgresql://owner:pw@db/x", "not the owner"),
    ],
)
def test_migrate_needs_an_owner_and_another_role(owner: str, role: str, fault: str) -> None:
    variables = {"CENTRAL_OWNER_DATABASE_URL": owner, "CENTRAL_DATABASE_URL": role}

    with pytest.raises(SettingsError, match=fault):
        read_migrate_settings(variables)


def test_url_without_secrets_keeps_host_and_database() -> None:
    url = "postgresql://u:p@[::1]:5432/d?password=p"

    assert without_secrets(url) == "postgresql://u@[::1]:5432/d"


@pytest.mark.parametrize("name", ["CENTRAL_TLS_CERT_FILE", "CENTRAL_TLS_KEY_FILE"])
def test_certificate_without_key_is_refused(name: str) -> None:
    other = {"CENTRAL_TLS_CERT_FILE", "CENTRAL_TLS_KEY_FILE"} - {name}
    with pytest.raises(SettingsError, match=f"{other.pop()}: must be set"):
        read_settings(ENOUGH | {name: "/tls/file"})


def test_certificates_of_clients_take_one_of_centrals_own() -> None:
    tls = {"CENTRAL_TLS_CERT_FILE": "/tls/tls.crt", "CENTRAL_TLS_KEY_FILE": "/tls/tls.key"}
    clients = {"CENTRAL_TLS_CLIENT_CA_FILE": "/tls/ca.crt"}

    assert read_settings(ENOUGH | tls | clients).describe()["tls_client_auth"] == "require"
    assert read_settings(ENOUGH | tls).describe()["tls_client_auth"] == "off"
    with pytest.raises(SettingsError, match="CENTRAL_TLS_CERT_FILE: must be set"):
        read_settings(ENOUGH | clients)
    with pytest.raises(
        SettingsError, match="CENTRAL_TLS_CLIENT_AUTH: expected one of require, req"
    ):
        read_settings(ENOUGH | tls | clients | {"CENTRAL_TLS_CLIENT_AUTH": "maybe"})
