"""`darkroom up`: one machine, everything on it: starts the processes, watches them, and stops them in order.

A child that dies is started again, later each time. One that says it cannot start ends all, unless it is a worker and
others serve already.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import httpx2
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.cli.children import HOPELESS_PAUSE, Child
from app.cli.data_folder import Places, is_half_restored
from app.cli.embedded import EmbeddedValkey, NoServer
from app.cli.kept_secrets import OPERATOR_TOKEN, SIGNING_KEY, TOKEN_VARIABLE, kept_secret
from app.cli.listening import CannotListen, bound_to
from app.cli.lost_workers import LostWorkers
from app.cli.own_program import as_typed
from app.cli.private import keep_private, own_folder, private_folder
from app.cli.this_machine import cores, gpus
from app.cli.up_settings import UpSettings, settings_from_env
from app.cli.welcome import welcome
from app.cli.worker_plan import Asked, CannotPlan, Machine, PlannedWorker, plan
from app.cli.worker_states import WorkerStates
from app.contract.common.environment import WORKER_NAME, SettingsError, given
from app.contract.common.exits import CANNOT_START
from app.contract.objects.names import CELL_MARK, CELL_WORD
from app.contract.redis import clients
from app.settings import Settings

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

FALSE_STARTS = 3
"""Deaths of one child before all were ever ready that are taken for 'cannot start'."""

GRACE_SECONDS = 40.0
"""From SIGTERM to SIGKILL: more than a worker's own grace period and its shutdown flush."""

NEIGHBOUR_SECONDS = 45.0
"""How long a start waits for the processes of a killed predecessor to end."""

COMPLAIN_SECONDS = 30.0
"""A start takes a few seconds. After this long without being ready, the screen says what is missing."""


class CannotOpen(Exception):
    """Nothing was started. One sentence with the remedy."""


class Supervisor:
    """Everything `darkroom up` runs, over one data folder."""

    def __init__(self, *, data: Path, asked: Asked | None = None) -> None:
        """`asked` is what the options say of workers."""
        self.data, self.asked = data.absolute(), asked or Asked()
        self.url = self.first_model = self.operator_token = ""
        self.valkey: EmbeddedValkey | None = None
        self.lost_workers = LostWorkers(self.data)
        self.children: list[Child] = []
        self.workers: dict[str, Child] = {}
        self.states = WorkerStates(())
        self.environment = given(os.environ)
        self.client = httpx2.Client(timeout=2, trust_env=False)
        self.keep: list[int] = []
        self.stopping = False
        self.ready = False
        self.complain_at = time.monotonic() + COMPLAIN_SECONDS

    def run(self) -> int:
        """Serve until SIGINT, SIGTERM or SIGHUP. Returns the exit code."""
        keep_private()
        for number in STOPS:
            signal.signal(number, self.on_signal)
        try:
            self.open()
            self.watch()
            return 0
        except (CannotListen, CannotOpen, CannotPlan, NoServer, SettingsError) as error:
            print(f"darkroom: {error}", file=sys.stderr)
            return CANNOT_START
        finally:
            self.close()
            # The interpreter puts the defaults back on its way out; a late one would decide the exit code.
            for number in STOPS:
                signal.signal(number, signal.SIG_IGN)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """The first one stops everything; a second one tells the children to hurry.

        A plain attribute, no threading.Event: a handler runs between any two instructions, and inside Event.wait it
        would wait for a lock that only its own thread can free.
        """
        if self.stopping:
            self.signal_children(signal.SIGTERM)
        self.stopping = True

    def open(self) -> None:
        """Settings, data folder, port, Redis, environment. Raises what `run` says in a sentence."""
        settings = settings_from_env()
        if reason := settings.why_not_listen():
            raise CannotOpen(reason)
        self.children = self.children_of(self.planned(settings))
        self.settle_port(settings)
        pipe, _ = os.pipe()
        self.keep = [pipe, self.lock_folder()]
        self.require_port(settings)
        if is_half_restored(self.data):
            raise CannotOpen(f"a restore into {self.data} was cut off: remove that folder and restore again")
        if "redis_url" in settings.model_fields_set:
            redis_url = settings.redis_url.get_secret_value()
            self.ask_redis(redis_url)
        else:
            self.valkey = EmbeddedValkey(self.data)
            self.valkey.start()
            redis_url = self.environment["DARKROOM_REDIS_URL"] = self.valkey.url
        try:
            self.note_places(Places.of(settings, self.data))
        except OSError as error:
            raise CannotOpen(f"{self.data} cannot be written ({error.strerror}); make room or own it") from error
        self.tell(f"starting; the page will be at {self.url}")
        self.lost_workers.open(redis_url)
        self.complete("DARKROOM_STORAGE_URL", (self.data / "pictures").as_uri())
        try:
            self.complete("DARKROOM_SIGNING_KEY", kept_secret(self.data, SIGNING_KEY))
            # Of no use to the others, one of which reads files of strangers.
            given_token = self.environment.pop(TOKEN_VARIABLE, None)
            self.operator_token = given_token or kept_secret(self.data, OPERATOR_TOKEN)
        except OSError as error:
            raise CannotOpen(f"{error.filename} cannot be used ({error.strerror}); remove it") from error
        self.complete("DARKROOM_PROFILE_FOLDER", str(self.data / "profiles"))

    def note_places(self, places: Places) -> None:
        """For other commands. Pictures in the folder that we have the lock of are this service's, also if its jobs were
        thrown away and there is another Redis now: the mark of the former one goes. Raises OSError."""
        places.note(self.data)
        if places.pictures == "own":
            for name in (CELL_MARK, CELL_WORD):
                (self.data / "pictures" / name).unlink(missing_ok=True)

    def settle_port(self, settings: Settings) -> None:
        """Where the gateway will answer. A free port is chosen once: the gateway keeps it when it is started again."""
        if not settings.port:
            settings = settings.model_copy(update={"port": free_port(settings.host)})
            self.environment["DARKROOM_PORT"] = str(settings.port)
        self.url = settings.own_url

    def require_port(self, settings: Settings) -> None:
        """Whoever answers where the gateway should would be taken for it, and told the operator's token. Looked at once
        nobody else has the folder: the processes of before may have listened until then. Raises CannotListen."""
        if settings.port:
            bound_to(settings.host, settings.port).close()

    def complete(self, name: str, value: str) -> None:
        """Give the processes what nobody has decided. An empty value decides nothing."""
        if not self.environment.get(name):
            self.environment[name] = value

    def planned(self, settings: UpSettings) -> tuple[PlannedWorker, ...]:
        """The workers. Requests that name no model mean the first one's, whichever was served from the folder before.

        Raises CannotPlan.
        """
        workers = plan(self.asked.completed(settings, self.environment), Machine(cores(), gpus), self.environment)
        self.first_model = workers[0].model
        if self.first_model:
            self.complete("DARKROOM_DEFAULT_MODEL", self.first_model)
        self.states = WorkerStates(workers)
        return workers

    def children_of(self, workers: Sequence[PlannedWorker]) -> list[Child]:
        """The processes in the order in which they start."""
        logs = self.data / "logs"
        self.workers = {
            worker.name: Child(worker.name, process="worker", logs=logs, own=partial(self.own_of, worker))
            for worker in workers
        }
        gateway = Child("gateway", logs=logs, own=self.own_of_gateway)
        return [gateway, *self.workers.values(), Child("webhooks", logs=logs)]

    def own_of_gateway(self) -> dict[str, str]:
        """What the gateway alone has in its environment."""
        return {TOKEN_VARIABLE: self.operator_token}

    def own_of(self, worker: PlannedWorker) -> dict[str, str]:
        """What a worker that is about to start has in its environment for itself."""
        own = self.lost_workers.name_one(worker.name)
        self.states.began(worker.name, own[WORKER_NAME], time.monotonic())
        return own | worker.environment()

    def ask_redis(self, url: str) -> None:
        """Somebody else's Redis has to be there at the start. If it goes later, the processes wait for it."""
        try:
            clients.client(url, socket_connect_timeout=3, retry=Retry(NoBackoff(), 0)).ping()
        except (redis.RedisError, ValueError) as error:
            remedy = "start it, or unset REDIS_URL to use the embedded one"
            raise CannotOpen(f"the Redis of REDIS_URL does not answer ({error}); {remedy}") from error
        if fault := clients.why_refused(url):
            raise CannotOpen(fault)

    def lock_folder(self) -> int:
        """One supervisor per folder. The children inherit the lock: it is free when the last of them has ended."""
        try:
            own_folder(self.data)
            private_folder(self.data / "logs")
            lock = os.open(self.data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            message = f"the data folder {self.data} cannot be written ({error.strerror}); choose another with --data"
            raise CannotOpen(message) from error
        ends, said = time.monotonic() + NEIGHBOUR_SECONDS, False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError:
                if time.monotonic() > ends or self.stopping:
                    message = f"another darkroom runs in {self.data}; stop it, or choose another folder with --data"
                    raise CannotOpen(message) from None
                if not said:
                    again = f"another runs in {self.data}, or its processes are still ending"
                    print(f"darkroom: {again}; waiting for up to {NEIGHBOUR_SECONDS:g} s", file=sys.stderr)
                    said = True
                time.sleep(0.2)

    def watch(self) -> None:
        """Keep everything alive until asked to stop. Raises CannotOpen when a child cannot start."""
        while not self.stopping:
            now = time.monotonic()
            for child in self.children:
                if child.note_death(now):
                    if child.name in self.workers:
                        self.states.ended(child.name)
                        self.lost_workers.died(child.name)
                    self.judge(child)
                child.start_when_due(now, self.environment, keep=self.keep)
            if self.valkey and self.valkey.has_ended():
                print("darkroom: Valkey ended; starting it again", file=sys.stderr)
                self.valkey.start()
            if not self.ready:
                self.look_whether_ready(now)
            self.states.look(now, self.lost_workers.connect)
            time.sleep(0.1)

    def judge(self, child: Child) -> None:
        """A death is a reason to start again, unless it is plain that it would not help, or is not wanted."""
        if child.was_drained:
            again = f"the next `{as_typed()} up`"
            print(f"darkroom: {child.name} was drained, and stays away until {again}", file=sys.stderr)
            return
        if self.ready and child.says_it_cannot_start and self.others_serve(child):
            again = f"the others go on, and it is tried again in {HOPELESS_PAUSE:g} s"
            print(f"darkroom: {child.name} cannot start; {again}:\n{child.last_words()}", file=sys.stderr, flush=True)
            return
        if child.says_it_cannot_start or (not self.ready and child.deaths >= FALSE_STARTS):
            raise CannotOpen(f"{child.name} cannot start:\n{child.last_words()}")
        print(f"darkroom: {child.name} ended with {child.last_code}; starting it again", file=sys.stderr)

    def others_serve(self, child: Child) -> bool:
        """Is there a worker beside this one that has not said the same, and was not told to leave?"""
        others = [other for other in self.workers.values() if other is not child]
        may_serve = (not (other.says_it_cannot_start or other.was_drained) for other in others)
        return child.name in self.workers and any(may_serve)

    def look_whether_ready(self, now: float) -> None:
        """Ask the gateway whether every part is in place; say so, or after a while say what is not."""
        try:
            answer = self.client.get(f"{self.url}/readyz")
        except httpx2.TransportError:
            return
        if answer.status_code == 200:
            # With the first model, which requests mean that name none: another one would draw those until then.
            self.ready = self.states.has_served(self.first_model)
        if self.ready:
            self.say_ready()
            if "RESERVE_BYTES" in (storage := answer.json()["checks"]["storage"]["detail"]):
                print(f"darkroom: storage: {storage}", file=sys.stderr)
        elif answer.status_code != 200 and now > self.complain_at:
            self.complain_at = now + COMPLAIN_SECONDS
            checks = answer.json()["checks"].items()
            reasons = "; ".join(f"{name}: {check['detail']}" for name, check in checks if not check["ok"])
            print(f"darkroom: not ready yet: {reasons}", file=sys.stderr)

    def tell(self, what: str) -> None:
        """Somebody who looks on: what is quiet for seconds seems to hang."""
        if sys.stderr.isatty():
            print(f"darkroom: {what}", file=sys.stderr, flush=True)

    def say_ready(self) -> None:
        print(f"darkroom is ready: {self.url}", flush=True)
        if sys.stdout.isatty():
            print(welcome(self.url, self.operator_token, self.data, needs_key=self.needs_key()), flush=True)

    def needs_key(self) -> bool:
        """Keys outlive a restart: then the token opens nothing, and nobody draws without one."""
        try:
            mine = {"authorization": f"Bearer {self.operator_token}"}
            return self.client.get(f"{self.url}/v1/jobs", params={"limit": 1}, headers=mine).status_code == 401
        except httpx2.TransportError:
            return False

    def signal_children(self, number: signal.Signals) -> None:
        for child in self.children:
            child.signal(number)

    def close(self) -> None:
        """End the children, then the Redis they spoke to. Nothing is left behind."""
        if self.stopping:
            self.tell("ending; what is being drawn has a while to finish")
        self.client.close()
        self.signal_children(signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS
        for child in self.children:
            child.wait(until)
        self.lost_workers.close()
        if self.valkey:
            self.valkey.stop()


def free_port(host: str) -> int:
    """A port of this address that nobody listens on. CannotOpen if the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, 0), family=family) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        reason = f"{host} cannot be used ({error.strerror}); choose another with --host or DARKROOM_HOST"
        raise CannotOpen(reason) from error
