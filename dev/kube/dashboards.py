"""Grafana dashboards from short descriptions of their panels.

Every panel says what it means that it has no data: the series are there from each process' start,
so an empty panel is a process that is not scraped.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

WIDTH, STAT_HEIGHT, GRAPH_HEIGHT = 24, 4, 8
STATS_PER_ROW, GRAPHS_PER_ROW = 6, 3
TAG = "texera-execution-metadata"
UNIT_UID = "texera-cu-sidecar-unit"


@dataclass(frozen=True)
class Panel:
    """`queries` by legend. `red_from` colours a stat from this value on, `red_below` under it."""

    title: str
    queries: Mapping[str, str]
    description: str
    no_data: str
    unit: str = "short"
    is_stat: bool = False
    red_from: float | None = None
    red_below: float | None = None
    links_to_unit: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    rows: Sequence[Row]
    variables: Mapping[str, str] = field(default_factory=dict)
    """Queries of the variables, by name; the last one of a unit's dashboard is one pod."""


def rate(series: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({series}[$__rate_interval]))"


def quantile(share: float, series: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(series, labels)})"


def quantiles(series: str) -> dict[str, str]:
    return {"p50": quantile(0.5, series), "p99": quantile(0.99, series)}


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def render(dashboard: Dashboard) -> str:
    """The dashboard as Grafana imports it."""
    ids = count(1)
    panels = list(_panels(dashboard, ids))
    document = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": [TAG],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [
            {
                "type": "dashboards",
                "title": "Fleet and units",
                "tags": [TAG],
                "keepTime": True,
                "includeVars": True,
            }
        ],
        "templating": {"list": list(_variables(dashboard))},
        "annotations": {"list": []},
        "panels": panels,
    }
    return json.dumps(document, indent=2) + "\n"


def _variables(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
    }
    for name, query in dashboard.variables.items():
        is_one = name == "pod"
        yield {
            "name": name,
            "label": {"central": "Central's namespace", "pool": "Pool"}.get(name, "Computing unit"),
            "type": "query",
            "datasource": _SOURCE,
            "query": query,
            "refresh": 2,
            "includeAll": not is_one,
            "multi": not is_one,
            "current": {} if is_one else {"text": "All", "value": "$__all"},
        }


def _panels(dashboard: Dashboard, ids: Iterator[int]) -> Iterator[dict[str, Any]]:
    y = 0
    for row in dashboard.rows:
        position = {"h": 1, "w": WIDTH, "x": 0, "y": y}
        yield {"id": next(ids), "type": "row", "title": row.title, "gridPos": position}
        y += 1
        is_stats = row.panels[0].is_stat
        per_row = STATS_PER_ROW if is_stats else GRAPHS_PER_ROW
        height, width = STAT_HEIGHT if is_stats else GRAPH_HEIGHT, WIDTH // per_row
        for index, panel in enumerate(row.panels):
            line, column = divmod(index, per_row)
            place = {"h": height, "w": width, "x": column * width, "y": y + line * height}
            yield {"id": next(ids), "gridPos": place, **_panel(panel)}
        y += -(-len(row.panels) // per_row) * height


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "noValue": panel.no_data}
    if panel.red_from is not None or panel.red_below is not None:
        at = panel.red_below if panel.red_from is None else panel.red_from
        colours = ("red", "green") if panel.red_from is None else ("green", "red")
        steps = [{"color": colours[0], "value": None}, {"color": colours[1], "value": at}]
        defaults |= {"color": {"mode": "thresholds"}, "thresholds": {"steps": steps}}
    if panel.links_to_unit:
        url = f"/d/{UNIT_UID}?var-pod=${{__field.labels.pod}}&${{__url_time_range}}"
        defaults["links"] = [{"title": "This computing unit", "url": url}]
    described: dict[str, Any] = {
        "type": "stat" if panel.is_stat else "timeseries",
        "title": panel.title,
        "description": f"{panel.description} {panel.no_data}",
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                **({"legendFormat": legend} if legend else {}),
            }
            for index, (legend, expression) in enumerate(panel.queries.items())
        ],
    }
    if panel.is_stat:
        described["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "colorMode": "none" if "thresholds" not in defaults else "background",
            "graphMode": "area",
        }
    return described
