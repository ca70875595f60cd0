"""Debian's nginx with the configuration that deploy/ offers, on loopback, before a gateway of a test."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.conftest import IN_CI
from tests.waiting import WAIT_SECONDS, until

SAMPLE = Path(__file__).parents[1] / "deploy" / "nginx" / "darkroom.conf"
PREFIX = "/darkroom"

_WHOLE = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{ }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/darkroom.conf;
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A proxy that listens. `url` is how clients reach the gateway through it; `ca` whom they have to trust."""

    url: str
    ca: Path
    folder: Path

    @property
    def access_log(self) -> str:
        return (self.folder / "access.log").read_text()

    @property
    def error_log(self) -> str:
        """What the proxy says beside: of itself, and of single requests."""
        return "".join((self.folder / name).read_text() for name in ("error.log", "requests.log"))


def find_nginx() -> str:
    """nginx's program. Without one the tests are skipped, and in CI they fail."""
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if found:
        return found
    reason = "no nginx here: `make nginx-deps` installs Debian's"
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


def sample(folder: Path, *, port: int, gateway: int) -> str:
    """The configuration as an operator would change it: ports, name and files."""
    changes = {
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{gateway};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "listen 443 ssl http2 default_server;": f"listen 127.0.0.1:{port} ssl http2 default_server;",
        "server_name pictures.example.org;": "server_name localhost;",
        "/etc/nginx/darkroom.crt": f"{folder}/darkroom.crt",
        "/etc/nginx/darkroom.key": f"{folder}/darkroom.key",
        "/var/log/nginx/darkroom.log": f"{folder}/access.log",
        "/var/log/nginx/darkroom-error.log": f"{folder}/requests.log",
    }
    text = SAMPLE.read_text()
    for ours, theirs in changes.items():
        assert text.count(ours) == 1, ours
        text = text.replace(ours, theirs)
    return text


@contextmanager
def nginx_before(folder: Path, *, port: int, gateway: int) -> Iterator[Nginx]:
    """nginx on the port, before the gateway's. Ends with the block."""
    program, authority = find_nginx(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(str(folder / "darkroom.key"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(folder / "darkroom.crt"), append=True)
    (folder / "darkroom.conf").write_text(sample(folder, port=port, gateway=gateway))
    # Debian's default user could not enter the folder of a test that root runs.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_WHOLE.format(folder=folder, user=user))
    process = subprocess.Popen([program, "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"])
    try:
        until(lambda: process.poll() is not None or _answers(port))
        assert process.poll() is None, (folder / "error.log").read_text()
        yield Nginx(f"https://localhost:{port}{PREFIX}", folder / "ca.pem", folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_SECONDS)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
