"""Both `doctor` commands, in the environments of `dev up`."""

import json
import subprocess
import sys
from typing import Any

from dev.tokens import mint
from tests.systems import ROOT, Up


def doctor(up: Up, role: str, *arguments: str, given: str = "", **variables: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", role, "doctor", "--json", *arguments],
        check=False,
        cwd=ROOT,
        env=up.published(role)["env"] | variables,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    failed = any(check["status"] == "fail" for check in found.values())
    assert done.returncode == (1 if failed else 0)
    return found


def test_central_passes(up: Up) -> None:
    found = doctor(up, "central")

    assert [name for name, check in found.items() if check["status"] == "fail"] == []


def test_the_sidecar_passes_beside_a_running_one_but_for_its_volume(up: Up) -> None:
    found = doctor(up, "sidecar")

    bad = {name for name, check in found.items() if check["status"] == "fail"}
    assert bad <= {"volume"}
    assert {found[name]["status"] for name in ("central", "environment", "source key")} == {"ok"}


def test_the_units_environment_is_judged_without_showing_values(up: Up) -> None:
    token = mint(1)
    unit = f"AUTH_JWT_SECRET=hidden-secret\nUSER_JWT_TOKEN={token}\n"

    found = doctor(up, "sidecar", "--unit-environment", "-", given=unit)

    assert found["unit environment"]["status"] == "fail"
    assert "AUTH_JWT_SECRET" in found["unit environment"]["detail"]
    assert "USER_JWT_TOKEN" in found["unit environment"]["detail"]
    assert "hidden-secret" not in json.dumps(found)
    assert token not in json.dumps(found)


def test_another_audience_is_reported(up: Up) -> None:
    found = doctor(up, "sidecar", SIDECAR_ASSERTION_AUDIENCE="another")

    assert found["central"]["status"] == "fail"
    assert "aud" in found["central"]["detail"]
