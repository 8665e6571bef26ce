"""The composition of central's API: stores, authentication, routes, middlewares, OpenAPI."""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from central import __version__
from central.api import (
    batches,
    bindings,
    bulk,
    executions,
    expired,
    leases,
    sources,
    uris,
    workflows,
    writes,
)
from central.api.batches import BATCHES, LIMITS
from central.api.bindings import BINDINGS, RUN_TOKENS
from central.api.bulk import SELECTIONS
from central.api.executions import EXECUTIONS
from central.api.expired import EXPIRED
from central.api.idempotent import IDEMPOTENCY_KEYS
from central.api.leases import BOOTS, LEASES
from central.api.sources import ASSERTIONS, SOURCES
from central.api.uris import URIS
from central.api.workflows import COSTS, EXPORTS, VERSIONS
from central.api.writes import WRITES
from central.auth.authenticator import (
    SCHEMES,
    AuthenticatedRoute,
    Authenticator,
    is_verified,
)
from central.auth.keys import Keys, KeySet, SharedSecret, build_jwks_source
from central.auth.rate_limits import RateLimits
from central.auth.run_tokens import RunTokens
from central.auth.source_assertions import AssertionVerifier
from central.auth.source_certificates import SourceCertificates
from central.auth.user_tokens import AccountRoleCache, TokenVerifier
from central.auth.workload_tokens import WorkloadVerifier
from central.auth_settings import LimitSettings, TokenSettings, WorkloadSettings
from central.metrics import Metrics
from central.middleware import (
    REFUSAL_LOG,
    ConnectionAge,
    add_user_headers,
    describe_caller,
    etag,
    record_refusals,
    release_slot,
    renewal_failures,
)
from central.problems import DatabaseUnavailable
from central.settings import Settings
from central.store.access import Accounts
from central.store.batches import Batches
from central.store.bindings import BindingCache, BindingQuota, Bindings
from central.store.boots import Boots
from central.store.bulk import BulkExecutions
from central.store.costs import Costs
from central.store.database import RETRY_AFTER_S, Database
from central.store.entries import DEFAULT_UNSTORABLE_AFTER_S, EntryStore
from central.store.executions import Executions, Versions
from central.store.expired import Expired
from central.store.exports import Exports
from central.store.idempotency import IdempotencyKeys
from central.store.leases import Leases, RenewalAvailability
from central.store.orphans import ExecutionCloser
from central.store.refusals import RefusalLog
from central.store.sources import Sources
from central.store.uris import Uris
from central.store.warehouses import Warehouses
from central.store.writes import Writes
from central.wire.entries import MAX_BODY_BYTES
from kit.http.body_reader import BodyReader
from kit.http.failed_calls import DESCRIBE_CALLER
from kit.http.large_decoder import LargeDecoder
from kit.http.openapi import add_openapi, openapi_document
from kit.http.routing import add_routes, measured, problem_middleware

ROUTES: tuple[AuthenticatedRoute, ...] = (
    *executions.routes,
    *bulk.routes,
    *workflows.routes,
    *expired.routes,
    *uris.routes,
    *bindings.routes,
    *writes.routes,
    *batches.routes,
    *leases.routes,
    *sources.routes,
)
HEALTH_PATH = "/v1/health"
_DESCRIPTION = (
    "The authority over execution metadata: authenticates, authorizes and applies the calls"
    " of sidecars. Each call carries the sidecar's signature."
)


def build_stores(
    database: Database,
    metrics: Metrics,
    lease_s: float,
    limits: LimitSettings,
    unstorable_after_s: float = DEFAULT_UNSTORABLE_AFTER_S,
    large_decoder: LargeDecoder | None = None,
) -> dict[web.AppKey[Any], Any]:
    """Every store, under the key by which handlers find it."""
    warehouses, entry_store = Warehouses(), EntryStore(metrics, unstorable_after_s)
    binding_cache, quota = BindingCache(), BindingQuota(limits, metrics)
    execution_closer = ExecutionCloser(metrics)
    availability = RenewalAvailability(database, lease_s)
    refusal_log = RefusalLog(database, metrics)
    decoder = large_decoder or LargeDecoder()
    return {
        BATCHES: Batches(database, entry_store, binding_cache, refusal_log, metrics, decoder),
        BINDINGS: Bindings(database, warehouses, execution_closer, quota, lease_s),
        BOOTS: Boots(execution_closer),
        COSTS: Costs(database),
        EXECUTIONS: Executions(database, warehouses, binding_cache, quota, lease_s),
        EXPIRED: Expired(database),
        EXPORTS: Exports(database, decoder),
        LIMITS: limits,
        LEASES: Leases(database, availability, metrics, lease_s),
        IDEMPOTENCY_KEYS: IdempotencyKeys(database, metrics),
        REFUSAL_LOG: refusal_log,
        SELECTIONS: BulkExecutions(),
        SOURCES: Sources(database),
        URIS: Uris(database),
        VERSIONS: Versions(database),
        WRITES: Writes(database, entry_store, metrics),
    }


def build_user_keys(settings: TokenSettings, metrics: Metrics) -> Keys:
    """The keys of users' tokens: the shared secret, or an issuer's key set."""
    if settings.jwks is None:
        return SharedSecret(settings)
    source = build_jwks_source(settings.jwks)
    return KeySet("users", source, settings.algorithms, settings.jwks, metrics)


def build_authenticator(settings: Settings, database: Database, metrics: Metrics) -> Authenticator:
    """Authentication as these settings configure it."""
    tokens, accounts, sources = settings.tokens, None, Sources(database)
    shows_certificates = settings.tls is not None and settings.tls.client_ca_file is not None
    if tokens.account_check_s > 0:
        accounts = AccountRoleCache(Accounts(database), tokens.account_check_s)
    return Authenticator(
        TokenVerifier(build_user_keys(tokens, metrics), tokens, metrics),
        AssertionVerifier(settings.assertions, metrics),
        accounts,
        None
        if settings.workloads is None
        else build_workload_verifier(settings.workloads, metrics),
        RateLimits(settings.limits, metrics),
        sources,
        None if settings.run_tokens is None else RunTokens(settings.run_tokens, metrics),
        SourceCertificates(sources, metrics) if shows_certificates else None,
    )


def build_workload_verifier(settings: WorkloadSettings, metrics: Metrics) -> WorkloadVerifier:
    source = build_jwks_source(settings.jwks)
    keys = KeySet("workloads", source, settings.algorithms, settings.jwks, metrics)
    return WorkloadVerifier(keys, settings, metrics)


def build_app(
    authenticator: Authenticator,
    metrics: Metrics,
    stores: Mapping[web.AppKey[Any], Any],
    *,
    connection_max_age_s: float,
    body_reader: BodyReader | None = None,
    is_database_available: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = time.perf_counter,
    uniform: Callable[[float, float], float] = random.uniform,
) -> web.Application:
    body_reader = body_reader or BodyReader()
    metrics.requests.add_routes(ROUTES)
    app = web.Application(
        middlewares=[
            body_reader.connections.middleware(is_verified),
            measured(metrics.requests),
            ConnectionAge(connection_max_age_s, clock, uniform).middleware,
            renewal_failures,
            problem_middleware,
            etag,
            release_slot,
            record_refusals,
        ],
        client_max_size=MAX_BODY_BYTES,
    )
    app[DESCRIBE_CALLER] = describe_caller
    for key, store in stores.items():
        app[key] = store
    app[ASSERTIONS] = authenticator.assertions
    if authenticator.run_tokens is not None:
        app[RUN_TOKENS] = authenticator.run_tokens
    add_routes(app, ROUTES, authenticator.authenticate, body_reader)
    app.on_response_prepare.append(add_user_headers)
    add_openapi(app, openapi)

    async def serve_health(_: web.Request) -> web.Response:
        """For the probes of sidecars, which carry no credentials: it costs no query."""
        if not is_database_available():
            raise DatabaseUnavailable("the database does not respond", retry_after_s=RETRY_AFTER_S)
        return web.json_response({"status": "available"})

    app.router.add_get(HEALTH_PATH, serve_health)
    return app


def openapi() -> dict[str, Any]:
    """The OpenAPI document of central's API."""
    return openapi_document(
        "Execution metadata, central",
        __version__,
        _DESCRIPTION,
        ROUTES,
        schemes=SCHEMES,
    )
