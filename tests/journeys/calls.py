"""Raw calls of the local API, for tests that check statuses and headers."""

import json
import urllib.request
from typing import Any
from urllib.error import HTTPError

from dev.ready import Ready


def call(
    ready: Ready,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    prefer: str | None = None,
) -> tuple[int, Any, dict[str, str]]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if prefer is not None:
        headers["Prefer"] = prefer
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(  # noqa: S310
        ready["sidecar"] + path,
        data=None if body is None else json.dumps(body).encode(),
        headers=headers,
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return response.status, json.load(response), dict(response.headers)
    except HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


def create(ready: Ready, token: str | None = None) -> int:
    """A new execution of the sample workflow; the owner's, unless a token says otherwise."""
    return _create(ready, token)[0]


def create_with_token(ready: Ready, token: str | None = None) -> tuple[int, str]:
    """As `create`, with the run's token."""
    return _create(ready, token, run_token=True)


def _create(ready: Ready, token: str | None, **more: bool) -> tuple[int, str]:
    new = {
        "workflow_id": ready["workflow_id"],
        "computing_unit_id": ready["computing_unit_id"],
        "environment_version": "test",
        **more,
    }
    token = token or ready["users"]["owner"]["token"]
    status, created, _ = call(ready, "POST", "/v1/executions", new, token=token)
    assert status == 201, created
    return int(created["execution_id"]), created.get("run_token", "")
