"""The oldest Kubernetes that the chart takes: 1.36 with v1, 1.35 with v1beta1.

1.36 is emulated by the newest server, 1.35 is built: it has no emulation, because the newest's
admission plugin asks for the v1 that 1.35 has not.
"""

from collections.abc import Iterator

import pytest

from dev.kube import binaries
from tests.chart.pods import CASES, computing_unit
from tests.chart.rendering import Chart
from tests.chart.test_validation import DIRTY
from tests.cluster.clients import Cluster, Denied
from tests.cluster.conftest import installed, running_cluster
from tests.cluster.test_injected import REFUSED_WHEN_CREATED, sent_and_expected

BETA_GATE = "--feature-gates=MutatingAdmissionPolicy=true"


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    emulated = "--emulated-version=1.36"
    with running_cluster(tmp_path_factory, emulated) as cluster, installed(cluster):
        yield cluster


@pytest.fixture(scope="module")
def beta(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = running_cluster(tmp_path_factory, BETA_GATE, modules=binaries.BETA)
    with running as cluster, installed(cluster, "injection-beta"):
        yield cluster


@pytest.mark.parametrize("case", ["plain", "with_more_containers"])
def test_a_pod_comes_back_exactly_as_expected(stable: Cluster, chart: Chart, case: str) -> None:
    sent, expected = sent_and_expected(stable, chart, case)

    assert sent == expected


def test_violating_pod_is_refused(stable: Cluster) -> None:
    assert_refused(stable, "the spool in another container")


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"with_env_from"}))
def test_the_beta_injects_the_same(beta: Cluster, chart: Chart, case: str) -> None:
    sent, expected = sent_and_expected(beta, chart, case)

    assert sent == expected


@pytest.mark.parametrize("case", REFUSED_WHEN_CREATED)
def test_the_guard_refuses_the_same_beside_the_beta(beta: Cluster, case: str) -> None:
    assert_refused(beta, case)


def assert_refused(cluster: Cluster, case: str) -> None:
    soil, sentence = DIRTY[case]
    pod = computing_unit()
    soil(pod)

    with pytest.raises(Denied, match=sentence):
        cluster.created(pod, "--dry-run=server")
