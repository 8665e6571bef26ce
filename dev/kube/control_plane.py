"""A Kubernetes API server on loopback: etcd and kube-apiserver, no controllers, no nodes.

Enough for admission: objects are stored, policies are evaluated, nothing is scheduled. Objects that
controllers would create (a namespace's default ServiceAccount) are created by the tests.
"""

import secrets
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dev.kube.binaries import ControlPlaneBinaries
from dev.parent_death import with_death_signal
from dev.polling import wait_until
from dev.ports import HOST, free_port
from dev.problems import StartFailed
from dev.processes import tail

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0

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
    """The CA certificate of `url`."""


@contextmanager
def running(binaries: ControlPlaneBinaries, folder: Path, *options: str) -> Iterator[ControlPlane]:
    """Both run for the block; they end with this process, however that ends.

    `options` are further options of kube-apiserver. With `--emulated-version=1.36` it has the
    APIs, the CEL and the feature gates of that release.
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
        wait_until(lambda: _is_ready(ready) or server.poll() is not None, START_TIMEOUT_S)
        if server.poll() is not None or not _is_ready(ready):
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


def _is_ready(url: str) -> bool:
    """Whether `/readyz` is 200. The certificate is self-signed; nothing secret is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as response:
            return bool(response.status == 200)
    except OSError:
        return False
