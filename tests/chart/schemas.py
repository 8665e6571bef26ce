"""Kubernetes' own schemas of its objects, strict: no unknown field, no field twice."""

import functools
import re
from typing import Any

import jsonschema
import referencing
from kubernetes_validate.utils import schema_contents

from tests.chart.rendering import Object

KUBERNETES_VERSIONS = ("1.36", "1.37")


def faults(item: Object, version: str) -> list[str]:
    """The errors that this version of Kubernetes reports for the object."""
    return [
        f"{item['kind']} {item['metadata']['name']}: {'.'.join(map(str, error.path))}: "
        f"{error.message[:300]}"
        for error in _validator(item["apiVersion"], item["kind"], version).iter_errors(item)
    ]


# kubernetes_validate.validate reads all of a version's definitions anew for each object.
@functools.cache
def _validator(api_version: str, kind: str, version: str) -> Any:
    api = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    schema = schema_contents(f"{folder}/{kind.lower()}-{api}.json", version)
    resources = [schema, _definitions(folder, version)]
    registry: Any = referencing.Registry()
    for contents in resources:
        registry = referencing.Resource.from_contents(contents) @ registry
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(folder: str, version: str) -> Any:
    return schema_contents(f"{folder}/_definitions.json", version)
