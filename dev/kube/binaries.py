"""kube-apiserver and etcd, built from their Go modules: the newest, and the newest with v1beta1.

Their versions are in go.mod and go.sum beside this file, and in beta/. Each content of those files
is built once, into the cache outside the clone; it takes six minutes on two cores.
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

NEWEST = Path(__file__).parent
BETA = NEWEST / "beta"
"""Kubernetes 1.35: MutatingAdmissionPolicy is v1beta1, and off unless its feature gate is on."""
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
}
BUILD_TIMEOUT_S = 3600


@dataclass(frozen=True)
class ControlPlaneBinaries:
    etcd: Path
    kube_apiserver: Path


def kubernetes_version(modules: Path) -> str:
    """Such as v1.37.2, from go.mod."""
    go_mod = (modules / "go.mod").read_text()
    found = re.search(r"k8s\.io/kubernetes (v\d+\.\d+\.\d+)$", go_mod, re.MULTILINE)
    assert found is not None
    return found[1]


def folder(modules: Path) -> Path:
    text = "".join((modules / name).read_text() for name in ("go.mod", "go.sum"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return cache_folder() / f"control-plane-{kubernetes_version(modules)}-{digest}"


def built(modules: Path = NEWEST) -> ControlPlaneBinaries | None:
    """The binaries, if an earlier run has built them."""
    newest, server = folder(NEWEST), folder(modules)
    if not (newest.exists() and server.exists()):
        return None
    return ControlPlaneBinaries(newest / "etcd", server / "kube-apiserver")


def build() -> Path:
    """Build the newest if needed; returns its folder. Raises `ToolMissing`."""
    return _build(NEWEST, "etcd", "kube-apiserver")


def build_beta() -> Path:
    """Build the newest with v1beta1, which has no etcd of its own, if needed."""
    return _build(BETA, "kube-apiserver")


def _build(modules: Path, *names: str) -> Path:
    if shutil.which("go") is None:
        raise ToolMissing("Go, which builds kube-apiserver and etcd, is not installed.")
    made = folder(modules)
    with filling(made) as scratch:
        if scratch is not None:
            for name in names:
                print(f"kube: building {name}", file=sys.stderr, flush=True)
                _go_build(modules, PACKAGES[name], scratch / name)
    return made


def _go_build(modules: Path, package: str, target: Path) -> None:
    version = kubernetes_version(modules)
    major, minor, _ = version.removeprefix("v").split(".")
    # The release's own build sets these; clients read them from the server.
    variables = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = [f"-X k8s.io/component-base/version.{key}={text}" for key, text in variables.items()]
    run = subprocess.run(
        ["go", "build", "-ldflags", " ".join(["-s", "-w", *flags]), "-o", target, package],
        cwd=modules,
        env=os.environ | {"GOFLAGS": "-mod=readonly -buildvcs=false"},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if run.returncode != 0:
        raise ToolMissing(f"go build {package} failed:\n{run.stderr.strip()[-2000:]}")
