"""nginx's proxy_cache in front of central: the usual variant to make a read cheap."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.bench.machine import with_children
from dev.polling import accepts_connections
from dev.ports import HOST
from dev.processes import ROOT, ManagedProcess, RunFolder

INSTALL = ROOT / "dev" / "bench" / "install.sh"

# As a careful operator would: nothing logged, one worker (a sidecar is one thread too), the
# response kept per URI and token, connections kept on both sides.
CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_timeout 3600s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=reads:10m inactive=60m;
    upstream central {{ server {central}; keepalive 16; }}
    server {{
        listen {host}:{port};
        location / {{
            proxy_pass http://central;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache reads;
            proxy_cache_key "$request_uri|$http_authorization";
            proxy_cache_valid 200 60m;
            proxy_cache_lock on;
            add_header X-Cache $upstream_cache_status;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    url: str
    process: ManagedProcess

    @property
    def pids(self) -> list[int]:
        return with_children(self.process.pid)


def has_tools(*, install: bool) -> bool:
    """Whether nginx and wrk are there; with `install`, as root on Debian, they are fetched."""
    wanted = ("nginx", "wrk")
    if all(map(shutil.which, wanted)):
        return True
    if install and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["sh", str(INSTALL)], check=False, stdout=subprocess.DEVNULL)
    return all(map(shutil.which, wanted))


def _folder(folder: RunFolder) -> Path:
    home: Path = folder.path / "nginx"
    home.mkdir()
    return home


@asynccontextmanager
async def nginx_before(central: str, port: int, folder: RunFolder) -> AsyncIterator[Nginx]:
    """nginx on this port, before central (an address without scheme)."""
    home = _folder(folder)
    user = "user root;" if os.geteuid() == 0 else ""
    text = CONFIGURATION.format(user=user, folder=home, central=central, host=HOST, port=port)
    (home / "nginx.conf").write_text(text)
    program = shutil.which("nginx") or "nginx"
    argv = [program, "-c", str(home / "nginx.conf"), "-p", str(home), "-e", str(home / "error.log")]
    process = await ManagedProcess.start(folder, "nginx", argv, {})
    try:
        await process.wait_until(accepts_connections(port))
        yield Nginx(f"http://{HOST}:{port}", process)
    finally:
        await process.terminate()
