"""The oldest Kubernetes that the chart takes without a feature gate, as the newest emulates it."""

from collections.abc import Iterator

import pytest

from tests.chart.pods import computing_unit
from tests.chart.rendering import Chart
from tests.chart.test_validation import DIRTY
from tests.cluster.clients import Cluster, Denied
from tests.cluster.conftest import installed, running_cluster
from tests.cluster.test_injected import sent_and_expected


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory, emulated_version="1.36") as cluster, installed(cluster):
        yield cluster


@pytest.mark.parametrize("case", ["plain", "with_more_containers"])
def test_a_pod_comes_back_exactly_as_expected(oldest: Cluster, chart: Chart, case: str) -> None:
    sent, expected = sent_and_expected(oldest, chart, case)

    assert sent == expected


def test_a_dirty_pod_is_refused(oldest: Cluster) -> None:
    soil, sentence = DIRTY["the spool in another container"]
    pod = computing_unit()
    soil(pod)

    with pytest.raises(Denied, match=sentence):
        oldest.created(pod, "--dry-run=server")
