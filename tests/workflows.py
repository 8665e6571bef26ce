"""Workflow files that tests replay: our own, and more from beside the clone where there are any."""

import pytest

from tests.systems import ROOT

OWN = ROOT / "dev" / "workflows"
SAMPLE = OWN / "sample.json"
WEATHER = OWN / "weather_stations.json"
"""Sources, a union, a join, aggregates, Python operators, a sink per kind, two sub-plans."""
MISSING_COLUMN = OWN / "missing_column.json"
"""Its Python operator fails."""
EARLY_EDITOR = OWN / "early_editor.json"
"""As an early editor saved it: keys of later ones are missing."""

BESIDE = ROOT.parent / "shared" / "workflows"
"""Files of real users; they are not part of the repository."""


def replayable() -> list[object]:
    """All workflow files as test parameters; a single skipped one says that none lie beside."""
    beside = [pytest.param(file, id=file.stem) for file in sorted(BESIDE.glob("*.json"))]
    none = pytest.param(
        SAMPLE, id="beside", marks=pytest.mark.skip("no workflow files lie beside the clone")
    )
    own = [pytest.param(file, id=file.stem) for file in sorted(OWN.glob("*.json"))]
    return [*own, *(beside or [none])]
