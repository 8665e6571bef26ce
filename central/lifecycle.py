"""The whole life of central, in one screen.

Start: stores over a pool that the first call opens, then the listeners; ready whether the
database is up or not, because a replica that is cut off cannot even say why.
Beside them runs the closer (`closer.py`).
End (SIGTERM or SIGINT): not ready; after `drain_delay_s`, in which load balancers look away,
no new connections; calls under way get `drain_timeout_s`; then the pool closes.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from central import __version__
from central.api.batches import BATCHES, LIMITS
from central.api.bindings import BINDINGS
from central.api.bulk import SELECTIONS
from central.api.executions import EXECUTIONS
from central.api.expired import EXPIRED
from central.api.idempotent import IDEMPOTENCY_KEYS
from central.api.leases import BOOTS, LEASES
from central.api.uris import URIS
from central.api.workflows import COSTS, EXPORTS, VERSIONS
from central.api.writes import WRITES
from central.app import build_app
from central.auth.authenticator import Authenticator
from central.auth.concurrency import PerCallerSemaphore
from central.auth.keys import Keys, KeySet, SharedSecret, build_jwks_source
from central.auth.rate_limits import RateLimits
from central.auth.source_assertions import AssertionVerifier
from central.auth.user_tokens import AccountRoleCache, TokenVerifier
from central.auth.workload_tokens import WorkloadVerifier
from central.auth_settings import LimitSettings, TokenSettings, WorkloadSettings
from central.jobs import purger
from central.jobs.orphan_closer import OrphanCloser
from central.metrics import Metrics
from central.middleware import AUDIT_LOG
from central.settings import Settings
from central.store.accounts import Accounts
from central.store.audit import AuditLog
from central.store.batches import Batches
from central.store.binding_cache import BindingCache
from central.store.binding_quota import BindingQuota
from central.store.bindings import Bindings
from central.store.boots import Boots
from central.store.bulk import Selections
from central.store.close_executions import Closings
from central.store.costs import Costs
from central.store.database import Database
from central.store.entries import EntryStore
from central.store.executions import Executions
from central.store.expired import Expired
from central.store.exports import Exports
from central.store.idempotency import IdempotencyKeys
from central.store.leases import Leases
from central.store.orphans import OrphanStore
from central.store.renewal_availability import RenewalAvailability
from central.store.retention import Retention
from central.store.schema import Schema
from central.store.uris import Uris
from central.store.versions import Versions
from central.store.warehouses import Warehouses
from central.store.writes import Writes
from central.tls import ServerCertificate
from kit.http.body_reader import BodyReader
from kit.http.connection_limits import ConnectionLimiter, listening
from kit.http.logs import fields
from kit.http.ops import serve_ops
from kit.http.problems import Problem

logger = logging.getLogger(__name__)

BODIES_SHARE = 0.5
"""Of the room for large bodies, for one address: a pod's programs leave the others the rest."""


def stores(
    database: Database, metrics: Metrics, lease_s: float, limits: LimitSettings
) -> dict[web.AppKey[Any], Any]:
    """Every store, by the key its handlers know it by."""
    open_bindings = BindingQuota(limits, metrics)
    warehouses, rows, closings = Warehouses(Schema()), EntryStore(), Closings(metrics)
    continuity, running = RenewalAvailability(database, lease_s), BindingCache()
    return {
        BATCHES: Batches(database, rows, running, metrics),
        BINDINGS: Bindings(database, warehouses, closings, open_bindings, lease_s),
        BOOTS: Boots(closings),
        COSTS: Costs(database),
        EXECUTIONS: Executions(database, warehouses, running, open_bindings, lease_s),
        EXPIRED: Expired(database),
        EXPORTS: Exports(database),
        LIMITS: limits,
        LEASES: Leases(database, continuity, metrics, lease_s),
        IDEMPOTENCY_KEYS: IdempotencyKeys(database),
        AUDIT_LOG: AuditLog(database),
        SELECTIONS: Selections(),
        URIS: Uris(database),
        VERSIONS: Versions(database),
        WRITES: Writes(database, rows, metrics),
    }


def build_user_keys(settings: TokenSettings, metrics: Metrics) -> Keys:
    """What signs users' tokens: the shared secret, or an issuer's key set."""
    if settings.jwks is None:
        return SharedSecret(settings)
    source = build_jwks_source(settings.jwks)
    return KeySet("users", source, settings.algorithms, settings.jwks, metrics)


def build_authenticator(settings: Settings, database: Database, metrics: Metrics) -> Authenticator:
    """Who is let in, by what these settings name."""
    tokens, accounts = settings.tokens, None
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
        PerCallerSemaphore(settings.limits.concurrent_calls, metrics),
    )


def build_workload_verifier(settings: WorkloadSettings, metrics: Metrics) -> WorkloadVerifier:
    source = build_jwks_source(settings.jwks)
    keys = KeySet("workloads", source, settings.algorithms, settings.jwks, metrics)
    return WorkloadVerifier(keys, settings, metrics)


def build_orphan_closer(
    settings: Settings, database: Database, leases: Leases, metrics: Metrics
) -> OrphanCloser:
    return OrphanCloser(
        leases.continuity,
        OrphanStore(database, Closings(metrics), settings.lease_s),
        metrics,
        lease_s=settings.lease_s,
        period_s=settings.closer.period_s,
        is_enabled=settings.closer.is_enabled,
    )


async def serve(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT. Answers the exit code. Raises OSError for a taken port."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    not_ready_because = ["starting"]
    metrics = Metrics(CollectorRegistry())
    database = Database(settings.database, metrics)
    metrics.watch_connections(database.connections)
    authenticator = build_authenticator(settings, database, metrics)
    resources = stores(database, metrics, settings.lease_s, settings.limits)
    closer = build_orphan_closer(settings, database, resources[LEASES], metrics)
    callers = ConnectionLimiter(settings.limits.connections, metrics.dropped_connection)
    intake = BodyReader(
        callers, max_total_bytes=settings.limits.buffered_body_bytes, share=BODIES_SHARE
    )
    metrics.watch_callers(lambda: callers.count, lambda: intake.held_bytes)
    app = build_app(
        authenticator,
        metrics,
        resources,
        connection_max_age_s=settings.connection_max_age_s,
        intake=intake,
    )

    def describe() -> Mapping[str, Any]:
        config, pool = settings.describe(), database.describe()
        return {"version": __version__, "config": config, "database": pool}

    async with AsyncExitStack() as life:
        life.push_async_callback(database.close)
        ops = serve_ops(metrics.registry, lambda: not_ready_because, describe, settings.ops_listen)
        api = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=settings.drain_timeout_s
        )
        context = None
        if settings.tls is not None:
            certificate = ServerCertificate(settings.tls.certificate_file, settings.tls.key_file)
            await life.enter_async_context(_background(certificate.files.watch()))
            context = certificate.context
        await life.enter_async_context(ops)
        await life.enter_async_context(listening(api, settings.listen, callers, context))
        opening = asyncio.create_task(_open(database))
        life.callback(opening.cancel)
        await life.enter_async_context(_background(closer.run()))
        retention = Retention(database, metrics, settings.retention)
        await life.enter_async_context(_background(purger.run(retention)))
        not_ready_because.clear()
        logger.info("ready", extra=fields(version=__version__, listen=str(settings.listen)))
        await stop.wait()
        not_ready_because.append("draining")
        await asyncio.sleep(settings.drain_delay_s)
    logger.info("stopped")
    return 0


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs beside the listeners. What ends it is a bug of ours, and the pod restarts us."""

    def tell(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.critical("background task failed", exc_info=task.exception())
            signal.raise_signal(signal.SIGTERM)

    task = asyncio.create_task(work)
    task.add_done_callback(tell)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _open(database: Database) -> None:
    """Spares the first call the connecting; should it fail, calls connect when they need to."""
    with suppress(Problem):
        await database.open()
