"""Admission policies' CEL, evaluated by cel-cpp on parsed pods.

What Kubernetes has beyond it is rewritten: `JSONPatch{op: ...}` becomes a map. What cel-cpp lets
pass and Kubernetes does not (literals of mixed types) is seen on a real API server only
(tests/cluster).
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

from tests.chart.pods import Pod
from tests.chart.rendering import Object

EXTENSIONS = ("optional", "strings", "two-var-comprehensions")


class Evaluator:
    """Evaluates expressions over `object`, `request` and `variables`."""

    def __init__(self, cel: Any) -> None:
        lines = "".join(f"  - name: {name}\n" for name in EXTENSIONS)
        config = cel.NewEnvConfigFromYaml(f"name: admission\nextensions:\n{lines}")
        known = dict.fromkeys(("object", "request", "variables"), cel.Type.DYN)
        self._environment = cel.NewEnv(config=config, variables=known)

    def value(self, expression: str, pod: Pod, variables: Mapping[str, Any]) -> Any:
        """Raises ValueError for what does not compile or evaluate, as Kubernetes would refuse."""
        compiled = self._environment.compile(_without_patches(expression))
        # What a pod is made with has no ephemeral containers: those come to one that is there.
        request = {"operation": "UPDATE" if "ephemeralContainers" in pod["spec"] else "CREATE"}
        given = {"object": pod, "request": request, "variables": dict(variables)}
        found = compiled.eval(data=given)
        if found.type().name() == "*error*":
            raise ValueError(f"{found.value()}: {expression}")
        return found.plain_value()

    def variables(self, policy: Object, pod: Pod) -> dict[str, Any]:
        """Each may use those before it."""
        values: dict[str, Any] = {}
        for entry in policy["spec"].get("variables", []):
            values[entry["name"]] = self.value(entry["expression"], pod, values)
        return values

    def mutated(self, policy: Object, pod: Pod) -> Pod:
        """The pod after all mutations of a MutatingAdmissionPolicy."""
        for mutation in policy["spec"]["mutations"]:
            variables = self.variables(policy, pod)
            patch = self.value(mutation["jsonPatch"]["expression"], pod, variables)
            pod = stored(patched(pod, patch))
        return pod

    def refusals(self, policy: Object, pod: Pod) -> list[str]:
        """The messages of a ValidatingAdmissionPolicy that refuses the pod."""
        variables = self.variables(policy, pod)
        return [
            self._message(rule, pod, variables)
            for rule in policy["spec"]["validations"]
            if not self.value(rule["expression"], pod, variables)
        ]

    def _message(self, rule: Mapping[str, str], pod: Pod, variables: Mapping[str, Any]) -> str:
        if "messageExpression" in rule:
            return str(self.value(rule["messageExpression"], pod, variables))
        return rule["message"]


def stored(pod: Pod) -> Pod:
    """As the API server keeps it: an empty list of a container is no list."""
    pod = copy.deepcopy(pod)
    for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
        for name in ("env", "volumeMounts"):
            if container.get(name) == []:
                del container[name]
    return pod


def _without_patches(expression: str) -> str:
    """`JSONPatch{op: x, path: y, value: z}` as a map."""
    if "JSONPatch{" not in expression:
        return expression
    keys = re.sub(r"\b(op|path|value): ", r'"\1": ', expression)
    return keys.replace("JSONPatch{", "{")


def patched(pod: Pod, patch: list[dict[str, Any]]) -> Pod:
    """`add` and `replace` of RFC 6902; raises KeyError where a parent or what to replace is not."""
    pod = copy.deepcopy(pod)
    for step in patch:
        *parents, last = (
            part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]
        )
        place: Any = pod
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        if isinstance(place, list) and last == "-":
            place.append(step["value"])
            continue
        if step["op"] == "replace":
            _ = place[last]
        place[last] = step["value"]
    return pod
