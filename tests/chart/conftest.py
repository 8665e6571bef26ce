"""Fixtures of the chart's tests. They skip, with the reason, if a tool is unavailable."""

from pathlib import Path

import pytest

from dev.kube import tools
from dev.kube.tools import ToolMissing
from tests.chart.cel import Evaluator
from tests.chart.rendering import Chart


@pytest.fixture(scope="session")
def helm() -> Path:
    try:
        return tools.helm()
    except ToolMissing as missing:
        pytest.skip(f"not run: {missing}")


@pytest.fixture(scope="session")
def chart(helm: Path) -> Chart:
    return Chart(helm)


@pytest.fixture(scope="session")
def evaluator() -> Evaluator:
    return Evaluator(pytest.importorskip("cel_expr_python.cel", reason="not run: no wheel of it"))
