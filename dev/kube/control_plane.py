"""A Kubernetes API server on loopback: etcd and kube-apiserver, no controllers, no nodes.

Enough for admission: objects are stored, policies run, nothing is scheduled. What controllers
would make (a namespace's default ServiceAccount) is made by hand.
"""

import secrets
import signal
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dev.kube.binaries import ControlPlaneBinaries
from dev.parent_death import with_death_signal
from dev.polling import wait_until
from dev.problems import StartFailed
from dev.processes import tail

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
HOST = "127.0.0.1"

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters:
  - name: test
    cluster:
      server: https://{host}:{port}
      certificate-authority: {folder}/certs/apiserver.crt
users:
  - name: admin
    user: {{token: "{token}"}}
contexts:
  - name: test
    context: {{cluster: test, user: admin}}
current-context: test
"""


@dataclass(frozen=True)
class ControlPlane:
    """A running API server."""

    url: str
    kubeconfig: Path
    authority: Path
    """The certificate to trust it by."""


@contextmanager
def running(binaries: ControlPlaneBinaries, folder: Path, *options: str) -> Iterator[ControlPlane]:
    """Runs both while the block runs; they end with this process, however that ends.

    `options` are more of kube-apiserver's own. With `--emulated-version=1.36` it has the APIs, the
    CEL and the feature gates of that release.
    """
    client, peer, port = (free_port() for _ in range(3))
    key = folder / "service-account.key"
    key.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(  # what kubeadm makes: RS256
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
    )
    token = secrets.token_hex(16)
    tokens = folder / "tokens.csv"
    tokens.write_text(f"{token},admin,admin,system:masters\n")
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(host=HOST, port=port, folder=folder, token=token))
    etcd = [
        binaries.etcd,
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://{HOST}:{client}",
        f"--advertise-client-urls=http://{HOST}:{client}",
        f"--listen-peer-urls=http://{HOST}:{peer}",
        f"--initial-advertise-peer-urls=http://{HOST}:{peer}",
        f"--initial-cluster=default=http://{HOST}:{peer}",
        "--unsafe-no-fsync",
    ]
    apiserver = [
        binaries.kube_apiserver,
        f"--etcd-servers=http://{HOST}:{client}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certs'}",  # makes a certificate of its own there
        f"--token-auth-file={tokens}",
        "--external-hostname=localhost",
        "--endpoint-reconciler-type=none",  # loopback is no address for endpoints
        "--authorization-mode=RBAC",
        "--allow-privileged",  # as clusters do, so that it is the chart's policy that refuses
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",  # off by default since v1
        "--service-cluster-ip-range=10.255.0.0/24",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={key}",
        f"--service-account-key-file={key}",
        *options,
    ]
    with ExitStack() as processes:
        processes.enter_context(_process(list(map(str, etcd)), folder / "etcd.log"))
        log = folder / "kube-apiserver.log"
        server = processes.enter_context(_process(list(map(str, apiserver)), log))
        url = f"https://{HOST}:{port}"
        ready = f"{url}/readyz"
        wait_until(lambda: _answers(ready) or server.poll() is not None, START_TIMEOUT_S)
        if server.poll() is not None or not _answers(ready):
            raise StartFailed("kube-apiserver did not start.", tail(log))
        yield ControlPlane(url, kubeconfig, folder / "certs" / "apiserver.crt")


@contextmanager
def _process(argv: list[str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as output:
        process = subprocess.Popen(
            with_death_signal(argv, signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    """Is the server ready? Its certificate is its own; nothing secret is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    """A port that was free a moment ago."""
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
