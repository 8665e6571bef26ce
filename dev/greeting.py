"""What `dev up` prints for a person: where everything is, and calls to try."""

from dev.ready import Ready

TEMPLATE = """\
Everything answers.

  sidecar   {sidecar}   ops {sidecar_ops}/status, /metrics
  central   {central}   ops {central_ops}/status, /metrics
  database  {database}

A token of the workflow's owner (more: python -m dev token --user-id N):

  TOKEN={token}

Calls to try:

  curl -H "Authorization: Bearer $TOKEN" \\
    '{sidecar}/v1/workflows/{workflow_id}/executions/latest?computing_unit_id={computing_unit_id}'
  curl -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
    {sidecar}/v1/executions -d '{{"workflow_id": {workflow_id}, "computing_unit_id": \
{computing_unit_id}, "environment_version": "try"}}'
  curl -X PATCH -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
    -H 'Prefer: wait=5' -d '{{"status": "RUNNING"}}' {sidecar}/v1/executions/EXECUTION_ID

Ctrl-C ends all of it and leaves nothing behind."""


def greeting(ready: Ready) -> str:
    """The text, filled in."""
    return TEMPLATE.format(**ready, token=ready["users"]["owner"]["token"])
