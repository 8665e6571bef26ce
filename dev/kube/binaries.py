"""kube-apiserver and etcd, built from their Go modules (go.mod and go.sum beside this file).

Once for each content of those files, into the cache outside the clone; six minutes on two cores.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dev.kube.tools import ToolMissing, cache_folder, filling

HERE = Path(__file__).parent
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
}
BUILD_TIMEOUT_S = 3600


@dataclass(frozen=True)
class ControlPlaneBinaries:
    etcd: Path
    kube_apiserver: Path


def kubernetes_version() -> str:
    """Such as v1.37.2, from go.mod."""
    found = re.search(r"k8s\.io/kubernetes (v\d+\.\d+\.\d+)$", _go_mod(), re.MULTILINE)
    assert found is not None
    return found[1]


def _go_mod() -> str:
    return (HERE / "go.mod").read_text()


def folder() -> Path:
    modules = _go_mod() + (HERE / "go.sum").read_text()
    digest = hashlib.sha256(modules.encode()).hexdigest()[:12]
    return cache_folder() / f"control-plane-{kubernetes_version()}-{digest}"


def built() -> ControlPlaneBinaries | None:
    """What an earlier run has built."""
    made = folder()
    if not made.exists():
        return None
    return ControlPlaneBinaries(made / "etcd", made / "kube-apiserver")


def build() -> ControlPlaneBinaries:
    """Builds what is not built yet. Raises `ToolMissing`."""
    if shutil.which("go") is None:
        raise ToolMissing("There is no Go here to build kube-apiserver and etcd with.")
    with filling(folder()) as made:
        if made is not None:
            for name, package in PACKAGES.items():
                print(f"kube: building {name}", file=sys.stderr, flush=True)
                _go_build(package, made / name)
    found = built()
    assert found is not None
    return found


def _go_build(package: str, target: Path) -> None:
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    # The release's own build sets these; clients ask the server for them.
    variables = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = [f"-X k8s.io/component-base/version.{key}={text}" for key, text in variables.items()]
    run = subprocess.run(
        ["go", "build", "-ldflags", " ".join(["-s", "-w", *flags]), "-o", target, package],
        cwd=HERE,
        env=os.environ | {"GOFLAGS": "-mod=readonly -buildvcs=false"},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if run.returncode != 0:
        raise ToolMissing(f"go build {package} failed:\n{run.stderr.strip()[-2000:]}")
