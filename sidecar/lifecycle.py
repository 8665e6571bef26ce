"""The whole life of a sidecar, in one screen.

    start    volume: key, spool -> connection pools to central -> caches, API, delivery, leases
             -> listeners -> delivery, renewals, maintenance -> ready
    serve    until SIGTERM or SIGINT; central may be down at any time, the start included
    drain    not ready, still serving; delivery has `drain_timeout_s` to empty the spool
    stop     maintenance, renewals, delivery -> listeners -> connection pools -> spool

Each part is closed by the exit stack, in reverse order of its start. Writes that are left stay in
the spool for the next start; the exit code and a log line say so.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from kit.http.body_reader import BodyReader
from kit.http.connection_limits import ConnectionLimiter
from kit.http.logs import change_level_on_signals, fields
from kit.http.metrics import watch_loop_lag
from kit.http.ops import serve_ops
from kit.http.page import History
from kit.http.recent_problems import RecentProblems
from kit.http.service import Supervisor, stop_on_signals
from sidecar import __version__
from sidecar.api.services import Services
from sidecar.cache.access import AccessCache
from sidecar.delivery.loop import Delivery
from sidecar.forwarded import ForwardedCalls
from sidecar.leases.health_check import unit_probe
from sidecar.leases.orphaned_creates import OrphanedCreates
from sidecar.leases.renewer import LeaseRenewer
from sidecar.metrics import Metrics
from sidecar.page import SidecarPage
from sidecar.reads import Reads
from sidecar.server.app import build_app
from sidecar.server.protocol import ProtocolFactory, listening
from sidecar.server.response_cache import ResponseCache
from sidecar.server.write_fast_path import WriteFastPath
from sidecar.settings import Settings
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import Priority
from sidecar.spool.fault_injection import NO_FAULTS, FaultInjector
from sidecar.spool.lock import make_private
from sidecar.spool.maintenance import run_maintenance
from sidecar.spool.schema import FORMAT_VERSION, has_spool
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import WIRE_VERSION, Central
from sidecar.upstream.client import CentralClient, open_session
from sidecar.upstream.credentials import WorkloadToken
from sidecar.upstream.key_rotation import KeyRotation
from sidecar.upstream.probe import CentralProbe
from sidecar.upstream.source_identity import SourceIdentity, has_key
from sidecar.user_limits import UserLimits
from sidecar.writes import Writes

logger = logging.getLogger(__name__)

EXIT_UNDELIVERED = 75
"""Stopped with writes left in the spool (EX_TEMPFAIL): the next start delivers them."""
PRIVATE_UMASK = 0o077
"""What is written to the volume, users' writes among it, is for this uid only."""
SHUTDOWN_TIMEOUT_S = 2.0
MAX_BODIES_SHARE = 0.5
"""Of the bytes for large bodies, for one user, and for all unknown tokens together."""
RESPONSE_CACHE_SHARE = 0.25
"""Of the cache's bytes, for whole responses; the rest is for resources."""


async def serve(settings: Settings, faults: FaultInjector = NO_FAULTS) -> int:
    """Runs until SIGTERM or SIGINT and returns the exit code. Raises OSError for a taken port, an
    unusable volume, or CA and certificate files that are."""
    os.umask(PRIVATE_UMASK)
    stop = stop_on_signals()
    change_level_on_signals(settings.log_level)
    async with AsyncExitStack() as life:
        sidecar = await life.enter_async_context(build_sidecar(settings, faults))
        life.enter_context(sidecar.problems.attached())
        spool, supervise = sidecar.spool, sidecar.tasks.supervise
        orphaned = OrphanedCreates(spool, sidecar.central)
        await life.enter_async_context(supervise("orphaned-creates", orphaned.close))
        await life.enter_async_context(supervise("page-history", sidecar.history.run))
        await life.enter_async_context(_listening(sidecar))
        delivery = await life.enter_async_context(supervise("delivery", sidecar.delivery.run))
        await life.enter_async_context(supervise("lease-renewer", sidecar.lease_renewer.run))
        keep_renewed = partial(
            sidecar.central.run_tokens.keep_renewed, spool.bindings.runs_with_token
        )
        await life.enter_async_context(supervise("run-tokens", keep_renewed))
        await life.enter_async_context(supervise("maintenance", partial(run_maintenance, spool)))
        await life.enter_async_context(supervise("key-rotation", sidecar.key_rotation.run))
        lag = partial(watch_loop_lag, sidecar.metrics.loop_lag)
        await life.enter_async_context(supervise("loop-lag", lag))

        sidecar.not_ready_because = []
        logger.info("ready", extra=fields(version=__version__, listen=str(settings.listen)))
        await stop.wait()

        sidecar.not_ready_because = ["draining"]
        sidecar.delivery.begin_drain()
        await asyncio.wait({delivery}, timeout=settings.drain_timeout_s)
        undelivered = spool.queues.entry_count
    logger.info("stopped", extra=fields(left_in_spool=undelivered))
    return EXIT_UNDELIVERED if undelivered else 0


class Sidecar:
    """The parts of a sidecar, wired together, for the listeners and the operator."""

    def __init__(
        self,
        settings: Settings,
        identity: SourceIdentity,
        spool: Spool,
        central: Central,
        metrics: Metrics,
        tasks: Supervisor,
        faults: FaultInjector,
    ) -> None:
        access = AccessCache(ttl_s=settings.access_ttl_s, stale_s=settings.stale_access_s)
        reads = Reads(
            spool,
            central,
            access,
            metrics,
            max_bytes=int(settings.cache_max_bytes * (1 - RESPONSE_CACHE_SHARE)),
            execution_cache_ttl_s=settings.execution_cache_ttl_s,
        )
        self.settings = settings
        self.identity = identity
        self.spool = spool
        self.central = central
        self.metrics = metrics
        self.tasks = tasks
        responses = ResponseCache(int(settings.cache_max_bytes * RESPONSE_CACHE_SHARE), metrics)
        fast_path = ProtocolFactory(responses, WriteFastPath(metrics))
        self.protocol_factory = fast_path if settings.response_cache else None
        self.body_reader = BodyReader(
            ConnectionLimiter(settings.limits.connections, metrics.connection_dropped),
            max_total_bytes=settings.limits.buffered_body_bytes,
            max_share=MAX_BODIES_SHARE,
        )
        self.key_rotation = KeyRotation(
            settings.spool_dir, identity, central, metrics, max_age_s=settings.key_max_age_s
        )
        self.delivery = Delivery(spool, central, metrics, reads, faults=faults)
        limits = UserLimits(settings.limits, spool, metrics)
        writes = Writes(spool, self.delivery, central, reads, access, limits, metrics)
        forwarded = ForwardedCalls(spool, self.delivery, central, reads, writes.user_of)
        self.services = Services(reads, writes, forwarded, limits)
        self.lease_renewer = LeaseRenewer(
            spool,
            central,
            unit_probe(settings.cu_health),
            metrics,
            period_s=settings.lease_renew_s,
            fail_runs_on_restart=settings.fail_runs_on_cu_restart,
        )
        spool.bindings.on_bound = self.lease_renewer.on_bound
        spool.on_append.append(self.lease_renewer.on_write)
        central.run_tokens.held = self.lease_renewer.held
        self.lease_renewer.on_lost = central.run_tokens.on_lost
        self.not_ready_because = ["starting"]
        self.problems = RecentProblems()
        self.history = History(self._gauges, self._counters)
        self.page = SidecarPage(
            self.describe,
            self.history,
            self.delivery.recent,
            settings.spool_dir,
            spool.now_ms,
            shows_ids=settings.page_shows_ids,
        )
        _connect_metrics(self)

    def not_ready(self) -> list[str]:
        """The reasons. A full spool is ready: it accepts terminal statuses, and reads work."""
        unavailable = self.spool.unavailable_because
        return [*self.not_ready_because, *([unavailable] if unavailable else [])]

    def _gauges(self) -> Mapping[str, float]:
        queues, leases = self.spool.queues, self.lease_renewer
        return {
            "waiting": queues.entry_count,
            "level": 100 * self.spool.used_ratio,
            "reachable": self.central.is_reachable,
            "renewed_s_ago": leases.age_s() if leases.held() else 0.0,
        }

    def _counters(self) -> Mapping[str, float]:
        return self._cache_results() | self.metrics.writes.totals("state")

    def _cache_results(self) -> dict[str, float]:
        return self.metrics.cache_requests.totals("result")

    def describe(self) -> Mapping[str, Any]:
        """`/status`, for an operator. Nothing in the settings is secret."""
        names = Settings.__dataclass_fields__
        return {
            "version": __version__,
            "pid": os.getpid(),
            "not_ready": self.not_ready(),
            "source_id": self.identity.source_id,
            "source_key_age_s": round(self.key_rotation.age_s()),
            "config": {name: getattr(self.settings, name) for name in names},
            "spool": {
                **self.spool.describe(),
                "used_ratio": self.spool.used_ratio,
                "oldest_waiting_s": max(_oldest_age_s(self.spool, one) for one in Priority),
            },
            "cache": {
                "bytes": self.services.reads.size_bytes,
                "results": self._cache_results(),
            },
            "leases": self.lease_renewer.describe(),
            "run_tokens": self.central.run_tokens.count,
            "tasks": self.tasks.describe(),
            "upstream": {
                "reachable": self.central.is_reachable,
                "probed_s_ago": self.central.probe_age_s,
                "clock_offset_s": self.central.clock_offset_s,
                "parked_because": self.delivery.parked_because,
            },
            "problems": self.problems.describe(),
        }


@asynccontextmanager
async def build_sidecar(
    settings: Settings, faults: FaultInjector = NO_FAULTS
) -> AsyncIterator[Sidecar]:
    """A sidecar with an open spool and without listeners, for the block."""
    make_private(settings.spool_dir)
    is_replacement = has_key(settings.spool_dir) and not has_spool(settings.spool_dir)
    identity = SourceIdentity.from_volume(settings.spool_dir, settings.assertion_audience)
    limits = SpoolLimits(settings.spool_max_bytes, settings.spool_max_entries)
    spool = Spool(settings.spool_dir, limits, faults=faults, is_replacement=is_replacement)
    await spool.open()
    metrics = Metrics()
    tasks = Supervisor(metrics.restarts)
    try:
        tls, token_file = settings.tls_context(), settings.workload_token_file
        workload = None if token_file is None else WorkloadToken(token_file)
        async with (
            nullcontext() if tls is None else tasks.supervise("credentials", tls.files.watch),
            # A pool each for what a CU waits for, for batches, for renewals and for the probe.
            open_session(tls) as calls,
            open_session(tls) as deliveries,
            open_session(tls) as renewals,
            open_session(tls) as probes,
        ):
            calling, delivering, renewing = (
                CentralClient(
                    session,
                    settings.central_url,
                    identity,
                    metrics,
                    timeout_s=settings.upstream_timeout_s,
                    workload=workload,
                )
                for session in (calls, deliveries, renewals)
            )
            probe = CentralProbe(probes, settings.central_url, metrics)
            central = Central(calling, delivering, renewing, probe)
            async with tasks.supervise("central-probe", probe.run):
                yield Sidecar(settings, identity, spool, central, metrics, tasks, faults)
    finally:
        await spool.close()


@asynccontextmanager
async def _listening(sidecar: Sidecar) -> AsyncIterator[None]:
    settings = sidecar.settings
    async with (
        serve_ops(
            sidecar.metrics.registry,
            sidecar.not_ready,
            sidecar.describe,
            sidecar.page.describe,
            settings.ops_listen,
        ),
        listening(
            build_app(sidecar.services, sidecar.metrics, sidecar.body_reader),
            sidecar.protocol_factory,
            (settings.listen.host, settings.listen.port),
            settings.unix_socket,
            shutdown_timeout_s=SHUTDOWN_TIMEOUT_S,
            limiter=sidecar.body_reader.connections,
            on_peer_refused=lambda: sidecar.metrics.connection_dropped("wrong-uid"),
        ),
    ):
        yield


def _connect_metrics(sidecar: Sidecar) -> None:
    """What is kept elsewhere is read at each scrape."""
    metrics, spool, central, leases = (
        sidecar.metrics,
        sidecar.spool,
        sidecar.central,
        sidecar.lease_renewer,
    )
    for priority in Priority:
        label = priority.name.lower()
        metrics.spool_entries.labels(label).read = partial(_waiting_count, spool, priority)
        metrics.spool_oldest_age.labels(label).read = partial(_oldest_age_s, spool, priority)
    metrics.spool_bytes.read = lambda: spool.queues.size_bytes
    metrics.spool_used_ratio.read = lambda: spool.used_ratio
    metrics.spool_full.read = lambda: spool.is_full
    metrics.spool_unavailable.read = lambda: bool(spool.unavailable_because or spool.disk_full)
    metrics.quarantined_entries.read = lambda: spool.quarantined_count
    metrics.spool_epochs.read = lambda: spool.epochs_started
    metrics.skipped_writes.read = lambda: spool.skipped_count
    spool.writer.on_synced = metrics.spool_sync.observe
    metrics.cache_bytes.read = lambda: sidecar.services.reads.size_bytes
    metrics.long_polls.read = lambda: sidecar.services.reads.waiter_count
    metrics.connections.read = lambda: sidecar.body_reader.connections.count
    metrics.buffered_body_bytes.read = lambda: sidecar.body_reader.buffered_bytes
    metrics.leases.read = lambda: len(leases.held())
    metrics.renewal_age.read = lambda: leases.age_s() if leases.held() else 0.0
    metrics.central_reachable.read = lambda: central.is_reachable
    metrics.central_probe_age.read = lambda: central.probe_age_s
    metrics.source_key_age.read = sidecar.key_rotation.age_s
    metrics.clock_offset.read = lambda: central.clock_offset_s
    metrics.build_info.add(__version__, str(WIRE_VERSION), str(FORMAT_VERSION)).set(1)


def _waiting_count(spool: Spool, priority: Priority) -> int:
    return spool.queues.count(priority)


def _oldest_age_s(spool: Spool, priority: Priority) -> float:
    oldest_ms = spool.queues.oldest_ms(priority)
    return 0.0 if oldest_ms is None else max(0, spool.now_ms() - oldest_ms) / 1000
