"""The life of a central process.

    starting --> ready --SIGTERM, SIGINT--> draining --> stopped
                                            1. not ready
                                            2. `drain_delay_s`: load balancers take us out
                                            3. no new connections; running calls get
                                               `drain_timeout_s`
                                            4. jobs end, the pool closes

Ready does not depend on the database: the first call opens the pool, and a replica that is cut
off has to answer with the reason. Beside the listeners run the orphan closer, the purger, the
watch of the database, the auditor and, with TLS, the reload of the certificate; one that fails is
restarted (`Supervisor`).
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from central import __version__
from central.api.leases import LEASES
from central.app import build_app, build_authenticator, build_stores
from central.jobs import auditor, purger
from central.jobs.database_watch import DatabaseWatch
from central.jobs.orphan_closer import OrphanCloser
from central.metrics import Metrics
from central.middleware import REFUSAL_LOG
from central.page import CentralPage
from central.settings import Settings
from central.store.audit import Audit
from central.store.database import Database
from central.store.fleet import Fleet
from central.store.orphans import ExecutionCloser, OrphanStore
from central.store.retention import Retention
from central.wire.entries import WIRE_VERSION
from kit.http.body_reader import BodyReader
from kit.http.connection_limits import READ_BYTES, ConnectionLimiter, listening
from kit.http.logs import change_level_on_signals, fields
from kit.http.metrics import watch_loop_lag
from kit.http.ops import serve_ops
from kit.http.page import History
from kit.http.problems import Problem
from kit.http.recent_problems import RecentProblems
from kit.http.service import Supervisor, stop_on_signals

logger = logging.getLogger(__name__)

MAX_BODIES_SHARE = 0.25
"""Of the bytes for large bodies, for one user or source: by default one body of 8 MiB."""


KEEPALIVE_S = 75.0
"""Longer than sidecars keep idle connections (60 s). aiohttp's default is an hour, by which one
would outlive a certificate that was withdrawn."""


async def serve(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code. Raises OSError for a port in use."""
    stop = stop_on_signals()
    change_level_on_signals(settings.log_level)
    not_ready_because = ["starting"]
    metrics = Metrics(CollectorRegistry())
    tasks = Supervisor(metrics.restarts)
    database = Database(settings.database, metrics)
    metrics.database_connections["open"].read = lambda: database.connections()[0]
    metrics.database_connections["in_use"].read = lambda: database.connections()[1]
    metrics.build_info.add(__version__, str(WIRE_VERSION)).set(1)
    callers = ConnectionLimiter(settings.limits.connections, metrics.dropped_connection)
    body_reader = BodyReader(
        callers,
        max_total_bytes=settings.limits.buffered_body_bytes,
        max_share=MAX_BODIES_SHARE,
    )
    stores = build_stores(
        database,
        metrics,
        settings.lease_s,
        settings.limits,
        settings.unstorable_after_s,
        body_reader.large_decoder,
    )
    metrics.connections.read = lambda: callers.count
    metrics.buffered_body_bytes.read = lambda: body_reader.buffered_bytes
    watch = DatabaseWatch(database)
    app = build_app(
        build_authenticator(settings, database, metrics),
        metrics,
        stores,
        is_database_available=lambda: watch.is_available,
        connection_max_age_s=settings.connection_max_age_s,
        body_reader=body_reader,
    )
    closer = OrphanCloser(
        stores[LEASES].availability,
        OrphanStore(database, ExecutionCloser(metrics), settings.lease_s),
        metrics,
        lease_s=settings.lease_s,
        period_s=settings.closer.period_s,
        is_enabled=settings.closer.is_enabled,
    )

    def describe() -> Mapping[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "not_ready": not_ready_because,
            "config": settings.describe(),
            "database": database.describe(),
            "tasks": tasks.describe(),
            "problems": problems.describe(),
        }

    def gauges() -> Mapping[str, float]:
        open_count, in_use = database.connections()
        return {"open": open_count, "in_use": in_use}

    def counters() -> Mapping[str, float]:
        entries = metrics.entries.totals("outcome")
        return {
            **metrics.requests.totals(),
            **{f"entries {outcome}": count for outcome, count in entries.items()},
        }

    problems, history = RecentProblems(), History(gauges, counters)
    page = CentralPage(
        describe, history, Fleet(database), settings.lease_s, shows_ids=settings.page_shows_ids
    )
    async with AsyncExitStack() as life:
        life.enter_context(problems.attached())
        life.push_async_callback(database.close)
        ops = serve_ops(
            metrics.registry,
            lambda: not_ready_because,
            describe,
            page.describe,
            settings.ops_listen,
        )
        await life.enter_async_context(tasks.supervise("page-history", history.run))
        api = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=settings.drain_timeout_s,
            read_bufsize=READ_BYTES,
        )
        context = None
        if settings.tls is not None:
            context = settings.tls.context()  # not the ops listener's: probes use plain HTTP
            await life.enter_async_context(tasks.supervise("certificate", context.files.watch))
        await life.enter_async_context(ops)
        await life.enter_async_context(listening(api, settings.listen, callers, context))
        opening = asyncio.create_task(_open(database))
        life.callback(opening.cancel)
        await life.enter_async_context(tasks.supervise("database-watch", watch.run))
        await life.enter_async_context(tasks.supervise("closer", closer.run))
        retention = Retention(database, metrics, settings.retention)
        await life.enter_async_context(tasks.supervise("purger", partial(purger.run, retention)))
        audit = partial(auditor.run, stores[REFUSAL_LOG], Audit(database))
        await life.enter_async_context(tasks.supervise("auditor", audit))
        lag = partial(watch_loop_lag, metrics.loop_lag)
        await life.enter_async_context(tasks.supervise("loop-lag", lag))
        not_ready_because.clear()
        logger.info("ready", extra=fields(version=__version__, listen=str(settings.listen)))
        await stop.wait()
        not_ready_because.append("draining")
        await asyncio.sleep(settings.drain_delay_s)
    logger.info("stopped")
    return 0


async def _open(database: Database) -> None:
    """Opens the pool ahead of the first call; after a failure calls open it themselves."""
    with suppress(Problem):
        await database.open()
