"""An upgrade and the way back, on one data folder: `python -m tests.system.both_ways --before COMMIT`.

Takes the files of the commit out of git, and starts by turns the version of then, this one, the one of then again, and
this one again. Each has to show all jobs that were drawn before it with their pictures, to draw one more, and to draw
what the one before it left: jobs that waited, and one whose worker was killed at it. This version leaves what only it
knows as well: a snapshot, deadlines, batch jobs, an edit, a further name, a paused model, an operator's key, counters
of use, ids with a cell. At the end gateway and worker are of two versions, as users of Redis who may do little.
Says what held, and ends with 1 if something did not. The packages that are installed serve both. No test of
`make test`: it needs git's history.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import redis

from app.contract.redis import keys, rq_names
from tests.pictures import file_of, noise, picture_in
from tests.system.conftest import COMMAND, Installation, drawn, ended
from tests.system.separate import Separate, bare_environment, python_path, restricted_valkey
from tests.waiting import WAIT_SECONDS, until

ROOT = Path(__file__).parents[2]
Job = dict[str, Any]

PARAMETERS = {"model": "starter", "prompt": "a red circle on a blue background", "num_inference_steps": 4}
LONG = PARAMETERS | {"num_inference_steps": 100, "reproducible": True, "seed": 77}
"""Runs for long enough to be killed at. Reproducible, so that whoever draws it draws the same."""

CELL = "eu1"
PROCESSES = ("gateway", "worker", "webhooks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="COMMIT")
    before = parser.parse_args().before
    with tempfile.TemporaryDirectory(prefix="both-ways-") as name:
        folder, then = Path(name), Path(name) / "before"
        packed = subprocess.run(["git", "archive", before], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(then, filter="data")
        story = Story(folder / "data")
        faults = [
            *story.turn_of_then(f"{before}, at first", then),
            *story.turn_of_this("this version"),
            *story.turn_of_then(f"{before}, again", then),
            *story.turn_of_this("this version, again"),
            *mixed(f"gateway of {before}, worker of this version", folder / "gateway-before", then, ROOT),
        ]
        if record_version(then) == record_version(ROOT):
            faults += mixed(f"gateway of this version, worker of {before}", folder / "worker-before", ROOT, then)
    return 1 if faults else 0


@dataclass
class Story:
    """One data folder, and what lies in it by now."""

    data: Path
    drawn: list[Job] = field(default_factory=list)
    left: list[Job] = field(default_factory=list)
    """By the version before, for the next one to draw."""
    key: str = ""
    """Of the caller, whose jobs these are."""
    operator: str = ""
    """The key of one, once there is a version that knows operators."""
    used: int = 0
    """Jobs that this version has drawn."""

    def turn_of_then(self, what: str, then: Path) -> list[str]:
        faults: list[str] = []
        with self.running(then) as (installation, client):
            if not self.key:
                self.key = make_key(installation, "alice")
                client.headers.update(bearer(self.key))
            knows_pauses = self.say(client, "resume", {}) == 200
            if record_version(then) == record_version(ROOT):
                faults += self.go_on(client)
            else:
                faults += self.leaves_alone(client)
            if self.operator and client.get("/v1/jobs", headers=bearer(self.operator)).status_code != 200:
                faults.append("the operator's key does not open what is its own")
            self.left += [killed_at(installation, client, suspend), sent(client, PARAMETERS)]
            if knows_pauses:
                self.say(client, "pause", {})
        return told(what, faults)

    def turn_of_this(self, what: str) -> list[str]:
        faults: list[str] = []
        with self.running(ROOT, DARKROOM_CELL=CELL) as (installation, client):
            before = len(self.drawn)
            if self.operator:
                faults += [*self.still_knows(client), *self.go_on(client)]
                self.used += len(self.drawn) - before
                faults += self.counts(client)
            else:
                self.operator = make_key(installation, "ops", "--scope", "admin")
                named = {"alias": "painter", "model": "starter"}
                client.post("/v1/admin/aliases", json=named, headers=bearer(self.operator)).raise_for_status()
                faults += self.go_on(client)
                self.left = self.leave_what_is_new(installation, client)
                self.used = len(self.drawn) - before
        return told(what, faults)

    @contextmanager
    def running(self, source: Path, **environment: str) -> Iterator[tuple[Installation, httpx2.Client]]:
        """A version over the folder, and its caller."""
        installation = Installation(self.data, environment=python_path(source) | environment, cwd=source)
        assert_imports_from(source)
        try:
            installation.start_and_wait()
            with installation.redis() as client:
                client.delete(rq_names.RQ_SUSPENDED)
            with installation.client() as caller:
                caller.headers.update(bearer(self.key))
                yield installation, caller
            installation.stop()
        finally:
            installation.kill_everything()

    def go_on(self, client: httpx2.Client) -> list[str]:
        """What every version does with what is there. Says what was not as it has to be."""
        faults = [fault for job in self.drawn for fault in faults_of(client, job)]
        came = [ended(client, job) for job in self.left]
        if came:
            # Known only where there are snapshots; both have to know them.
            if "resumed_at_step" in self.left[0] and came[0].get("resumed_at_step") == 0:
                faults.append(f"{came[0]['id']}, whose worker was killed, started over in spite of its snapshot")
            undisturbed = drawn(client, LONG)
            if pixels(client, came[0]) != pixels(client, undisturbed):
                faults.append(f"{came[0]['id']}, whose worker was killed, is another picture than undisturbed")
        came.append(drawn(client, PARAMETERS | {"seed": len(self.drawn)}))
        self.drawn, self.left = self.drawn + came, []
        return faults + [fault for job in came for fault in faults_of(client, job)]

    def leaves_alone(self, client: httpx2.Client) -> list[str]:
        """What is in a form that it does not know, until a version comes that does; and goes on with what comes."""
        self.drawn.append(drawn(client, PARAMETERS | {"seed": len(self.drawn)}))
        states = [client.get(f"/v1/jobs/{job['id']}").json()["status"] for job in self.left]
        faults = [fault for job in self.drawn for fault in faults_of(client, job)]
        return faults if set(states) <= {"queued"} else [*faults, f"jobs of the version to come are {states}"]

    def leave_what_is_new(self, installation: Installation, client: httpx2.Client) -> list[Job]:
        """Ended and waiting jobs with all that earlier versions do not know. Those that wait."""
        news: dict[str, Job] = {
            "deadline": {"deadline": 3_600},
            "batch": {"priority": "batch"},
            "alias": {"model": "painter"},
            "edit": {"image": {"b64": base64.b64encode(file_of(noise(128, 128))).decode()}, "strength": 0.5},
        }
        self.drawn += [drawn(client, PARAMETERS | each) for each in news.values()]

        def pause(_: redis.Redis) -> None:
            assert self.say(client, "pause", {"reason": "an upgrade"}) == 200

        first = killed_at(installation, client, pause)
        return [first, *(sent(client, PARAMETERS | each) for each in news.values())]

    def still_knows(self, client: httpx2.Client) -> list[str]:
        """Of what this version has left before an earlier one had its turn. The model is resumed at the end."""
        operator, faults = bearer(self.operator), []
        paused = {each["id"]: each["paused"] for each in client.get("/v1/models").json()["data"]}
        if not paused["starter"]:
            faults.append("the model is not paused any more")
        if [each["alias_of"] for each in client.get("/v1/admin/aliases", headers=operator).json()["data"]] != [
            "starter"
        ]:
            faults.append("the further name is gone")
        actions = [each["action"] for each in client.get("/v1/admin/audit", headers=operator).json()["data"]]
        if not {"alias", "keys create", "pause"} <= set(actions):
            faults.append(f"the audit has {actions}")
        assert self.say(client, "resume", {}) == 200
        return faults

    def say(self, client: httpx2.Client, what: str, body: Job) -> int:
        """An operator's word about the model. 404 from a version that knows no operators."""
        path = f"/v1/admin/models/starter/{what}"
        return client.post(path, json=body, headers=bearer(self.operator)).status_code

    def counts(self, client: httpx2.Client) -> list[str]:
        """Whether the use of this version's jobs was counted: earlier ones count nothing."""
        today = client.get("/v1/usage").json()["total"]
        return [] if today["succeeded"] >= self.used else [f"use is {today}, of {self.used} jobs"]


def mixed(what: str, folder: Path, gateway: Path, worker: Path) -> list[str]:
    """Gateway and worker of two versions, with this version's users of Redis: jobs are drawn, told of and canceled."""
    (folder / "valkey").mkdir(parents=True)
    valkey = restricted_valkey(folder / "valkey", "a-password")
    own = {name: {"DARKROOM_REDIS_URL": f"redis://{name}:a-password@127.0.0.1:{valkey.port}/0"} for name in PROCESSES}
    environment = bare_environment() | {
        "DARKROOM_STORAGE_URL": (folder / "pictures").as_uri(),
        "DARKROOM_SIGNING_KEY": "s" * 32,
        "DARKROOM_API_KEYS": "alice:" + "k" * 32,
    }
    sources = {"gateway": gateway, "worker": worker, "webhooks": gateway}
    service = Separate(folder, environment, valkey, own, sources)
    try:
        service.start()
        with httpx2.Client(
            base_url=service.url, headers=bearer("k" * 32), timeout=WAIT_SECONDS, trust_env=False
        ) as client:
            faults = faults_between(client, urgent=gateway == ROOT)
    finally:
        service.kill()
        valkey.stop()
    return told(what, faults)


def faults_between(client: httpx2.Client, *, urgent: bool) -> list[str]:
    asked = [PARAMETERS, PARAMETERS | {"seed": 1}]
    if urgent:
        asked += [
            PARAMETERS | {"deadline": 3_600},
            PARAMETERS | {"priority": "batch"},
            PARAMETERS | {"prompt": "a frog"},
        ]
    jobs = [sent(client, each) for each in asked]
    canceled = sent(client, LONG)
    until(lambda: client.get(f"/v1/jobs/{canceled['id']}").json()["status"] == "running")
    client.post(f"/v1/jobs/{canceled['id']}/cancel").raise_for_status()
    faults = [fault for job in jobs for fault in faults_of(client, ended(client, job))]
    if (status := ended(client, canceled)["status"]) != "canceled":
        faults.append(f"canceled, and {status}")
    # Opened while it runs or waits, and read to its end.
    events = client.get(f"/v1/jobs/{sent(client, PARAMETERS)['id']}/events").text
    if "event: job.succeeded" not in events:
        faults.append(f"its events are {events}")
    return faults


def told(what: str, faults: list[str]) -> list[str]:
    print(f"{what}: {'; '.join(faults) or 'holds'}", flush=True)
    return faults


def record_version(source: Path) -> int:
    """Of the form in which a version writes jobs. A worker leaves those of a newer form alone."""
    # The file of names in Redis has had another folder.
    names = next(source.glob("app/contract/**/keys.py")).read_text()
    [found] = re.findall(r"^RECORD_VERSION = ([0-9]+)$", names, re.MULTILINE)
    return int(found)


def assert_imports_from(source: Path) -> None:
    """That the tree goes before what is installed: else a version would be compared with itself."""
    asked = [sys.executable, "-c", "import app, worker; print(app.__file__, worker.__file__)"]
    environment = dict(os.environ) | python_path(source)
    said = subprocess.run(asked, cwd=source, env=environment, capture_output=True, text=True, check=True).stdout
    assert all(path.startswith(str(source)) for path in said.split()), said


def make_key(installation: Installation, *arguments: str) -> str:
    done = subprocess.run(
        [COMMAND, "keys", "create", *arguments, "--data", installation.data],
        env=dict(os.environ) | installation.environment,
        cwd=installation.cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def sent(client: httpx2.Client, parameters: Job) -> Job:
    job: Job = client.post("/v1/jobs", json=parameters).raise_for_status().json()
    return job


def killed_at(installation: Installation, client: httpx2.Client, hold: Callable[[redis.Redis], object]) -> Job:
    """A job that waits again, since its worker was killed at it, with a snapshot where the version keeps some. `hold`
    has the next worker claim nothing."""
    job = sent(client, LONG)
    with installation.redis() as store:
        sign = f"{keys.SNAPSHOT}{job['id']}" if "resumed_at_step" in job else ""
        until(lambda: store.exists(sign) if sign else client.get(job["urls"]["self"]).json()["status"] == "running")
        pid = installation.put_worker_to_sleep(job["id"])
        hold(store)
    os.kill(pid, signal.SIGKILL)
    until(lambda: client.get(job["urls"]["self"]).json()["status"] == "queued")
    return job


def suspend(client: redis.Redis) -> None:
    """As `rq suspend` does."""
    client.set(rq_names.RQ_SUSPENDED, 1)


def faults_of(client: httpx2.Client, then: Job) -> list[str]:
    """What of a job is not as it was."""
    answer = client.get(f"/v1/jobs/{then['id']}")
    if answer.status_code != 200:
        return [f"{then['id']}: {answer.status_code} {answer.text}"]
    now = answer.json()
    faults = [name for name in ("status", "model", "created_at", "ended_at") if now[name] != then[name]]
    if now["status"] != "succeeded":
        faults.append(f"{now['status']}, {now['error']}")
    for image in now["images"]:
        picture = client.get(image["url"])
        if hashlib.sha256(picture.content).hexdigest() != image["sha256"]:
            faults.append(f"picture {picture.status_code}")
    if then["id"] not in {job["id"] for job in client.get("/v1/jobs", params={"limit": 100}).json()["data"]}:
        faults.append("not in the list")
    return [f"{then['id']}: {fault}" for fault in faults]


def pixels(client: httpx2.Client, job: Job) -> list[bytes]:
    """Of each of its pictures."""
    return [picture_in(client.get(image["url"]).content).tobytes() for image in job["images"]]


if __name__ == "__main__":
    sys.exit(main())
