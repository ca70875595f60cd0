"""`darkroom doctor`: looks at everything the service needs on this machine, and says what to do about what is missing.

Knows the gateway's side itself and asks the worker's side through a process of its own, because this one has no torch.
Repairs nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

import httpx2
import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.table import Table
from rich.text import Text

from app import __version__
from app.cli.embedded import EmbeddedValkey, NoServer, find_binary
from app.cli.tables import paper
from app.cli.this_machine import cores
from app.cli.up_settings import UpSettings, settings_from_env
from app.cli.worker_plan import Asked, CannotPlan, Machine, plan
from app.contract.common.environment import SettingsError, given
from app.contract.common.extras import how_to_install
from app.contract.messages.model_name import BUNDLED_MODEL
from app.contract.redis import clients, keys
from app.contract.redis.durability import cluster_fault, durability_faults, reasons_to_refuse_writes
from app.jobs.pictures import open_pictures
from app.pictures.errors import PictureStoreError
from app.settings import Settings

EXAMINATION_SECONDS = 600
"""torch takes seconds to import, and the hashes of a large model's files a while to compute: 14 GB from a slow disk two
and a half minutes."""

GB = 1e9
Level = Literal["ok", "note", "bad"]
_COLOURS: dict[Level, str] = {"ok": "green", "note": "yellow", "bad": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do unless it is fine."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


def diagnose(*, data: Path, port: int | None, asked: Asked, as_json: bool) -> int:
    """Look, print, and return the exit code: 1 when something keeps the service from working. `asked` is what `darkroom
    up` would be told of workers."""
    findings = list(_look(data.absolute(), port, asked))
    healthy = all(finding.level != "bad" for finding in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "checks": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _print(findings)
    return 0 if healthy else 1


def _look(data: Path, port: int | None, asked: Asked) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]} on {sys.platform}, darkroom {__version__}")
    try:
        settings = settings_from_env()
    except SettingsError as error:
        yield Finding("settings", "bad", str(error), "correct the variable; README.md lists every setting")
        settings = UpSettings.model_construct()
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    if reason := settings.why_not_listen():
        yield Finding("keys", "bad", reason.partition(": ")[0], reason.partition(": ")[2])
    yield from _worker_side(asked, settings)
    yield _redis(settings, data)
    yield _storage(settings, data)
    yield from _former_keys(settings)
    yield _disk(settings, data)
    yield _port(settings)


def _worker_side(asked: Asked, settings: UpSettings) -> Iterator[Finding]:
    try:
        asked = asked.completed(settings, given(os.environ))
    except CannotPlan as error:
        yield Finding("workers", "bad", str(error), "say it otherwise; `darkroom up --help` has a table")
        return
    has_several = bool(asked.folders)
    first = {"DARKROOM_DEVICE": asked.devices[0]}
    if has_several:
        first["DARKROOM_MODELS"] = ",".join(map(str, asked.folders))
    else:
        first["DARKROOM_MODEL"] = str(asked.models[0])
    try:
        torch = installed("torch")
    except PackageNotFoundError:
        remedy = how_to_install("worker") + ", on machines that draw"
        yield Finding("torch", "note", "not installed: this machine can run the gateway only", remedy)
        if has_several:
            yield from _several(_examination(first))
        elif asked.models != (BUNDLED_MODEL,):
            yield from _model(_examination(first))
        return
    facts = _examination(first)
    if "settings_error" in facts:
        yield Finding("worker", "bad", facts["settings_error"], "correct the variable; README.md lists every setting")
        return
    if missing := facts.get("missing"):
        problem = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        yield Finding("torch", "bad", problem, how_to_install("worker"))
        return
    yield Finding("torch", "ok", f"{torch}, diffusers {facts['versions']['diffusers']}")
    yield _gpu(facts)
    yield from _several(facts) if has_several else _model(facts)
    yield from _workers(asked, [f"cuda:{number}" for number in range(len(facts["gpus"]))])


def _several(facts: dict[str, Any]) -> Iterator[Finding]:
    """The folders of which a worker has one in memory at a time, and the scorer beside them."""
    if "models" not in facts:
        yield from _model(facts)
        return
    for model in facts["models"]:
        yield from _model({"model": model})
    if not facts["models"]:
        yield Finding("model", "bad", "no folder of DARKROOM_MODELS holds a model", "put folders of models there")
    if "scorer" in facts:
        yield _scorer(facts["scorer"])


def _workers(asked: Asked, gpus: list[str]) -> Iterator[Finding]:
    """What `darkroom up` would start, and what is to be said of the models beside the first."""
    try:
        workers = plan(asked, Machine(cores(), lambda: gpus), given(os.environ))
    except CannotPlan as error:
        yield Finding("workers", "bad", str(error), "say it otherwise; `darkroom up --help` has a table")
        return
    for worker in {each.model: each for each in workers if not each.is_of_first_model}.values():
        facts = _examination(worker.environment())
        yield from _model({"model": facts.get("model"), "settings_error": facts.get("settings_error", "no answer")})
    yield Finding("workers", "ok", "\n".join(f"{worker.name}: {worker}" for worker in workers))


def _examination(own: Mapping[str, str]) -> dict[str, Any]:
    """What the worker's side says, with this in its environment."""
    command = [sys.executable, "-m", "worker.examine"]
    environment = os.environ | own
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=EXAMINATION_SECONDS)
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"missing": {"the worker's packages": f"no answer within {EXAMINATION_SECONDS} s"}}
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"missing": {"the worker's packages": last[0]}}


def _gpu(facts: dict[str, Any]) -> Finding:
    if facts["gpus"]:
        names = ", ".join(f"{gpu['name']} ({gpu['bytes'] / GB:.0f} GB)" for gpu in facts["gpus"])
        return Finding("gpu", "ok", f"{names}; a worker draws on {facts['device']}")
    if facts["device"] not in ("cpu", "mps"):
        remedy = "unset DARKROOM_DEVICE, or install the driver and torch's CUDA build"
        return Finding("gpu", "bad", f"DARKROOM_DEVICE={facts['device']}, but torch sees no GPU", remedy)
    if shutil.which("nvidia-smi"):
        build = f"is built for CUDA {facts['cuda_build']}" if facts["cuda_build"] else "is a build for CPUs"
        remedy = "compare the driver with torch's build at https://pytorch.org/get-started/locally/"
        return Finding("gpu", "note", f"this machine has nvidia-smi, but torch {build} and sees no GPU", remedy)
    drawn = f"none; a worker draws on the {facts['device']} with {facts['threads']} threads"
    halved = "; the processor multiplies bfloat16, try DARKROOM_DTYPE=bfloat16" if facts["multiplies_bfloat16"] else ""
    return Finding("gpu", "ok", drawn + halved * (facts["device"] == "cpu"))


def _model(facts: dict[str, Any]) -> Iterator[Finding]:
    """What the worker itself would say of the folder: both ask one judge."""
    model, scorer = facts.get("model"), facts.get("scorer")
    if model is None and scorer is None:
        yield Finding("model", "bad", facts.get("settings_error", "cannot be examined"), "correct the settings")
        return
    if scorer is not None:
        yield _scorer(scorer)
    if model is None:
        return
    if model["faults"]:
        yield Finding("model", "bad", "\n".join(model["faults"]), "name a good folder with --model or DARKROOM_MODEL")
        return
    width, height = model["size"]
    detail = (
        f"{model['name']} in {model['path']}, {model['family']}, {width} x {height}, "
        f"{model['weights'] / GB:.2f} GB of weights as {model['dtype']}"
    )
    if model["vae"]:
        detail += f", with the VAE in {model['vae']}"
    if model["prior"]:
        detail += f", with the prior in {model['prior']}"
    if model["controlnets"]:
        detail += f", with the ControlNets {', '.join(model['controlnets'])}"
    remedy = f"not looked at: {model['unjudged']}" if model["unjudged"] else ""
    yield Finding("model", "note" if model["notes"] or remedy else "ok", "\n".join([detail, *model["notes"]]), remedy)
    yield from _adapters(model.get("adapters", {}))


def _scorer(facts: dict[str, Any]) -> Finding:
    if facts["faults"]:
        remedy = "name a good folder with DARKROOM_SCORER, or set it to off"
        return Finding("scorer", "bad", "\n".join(facts["faults"]), remedy)
    detail = f"{facts['path']}, {facts['family']}, {facts['weights'] / GB:.2f} GB of weights as {facts['dtype']}"
    remedy = f"not looked at: {facts['unjudged']}" if facts["unjudged"] else ""
    state: Literal["note", "ok"] = "note" if facts["notes"] or remedy else "ok"
    return Finding("scorer", state, "\n".join([detail, *facts["notes"]]), remedy)


def _adapters(shelves: dict[str, Any]) -> Iterator[Finding]:
    """A folder that is none keeps the worker from starting; a file that does not fit is left out."""
    if fault := shelves.get("fault"):
        yield Finding("adapters", "bad", fault, "correct the setting, or make the folder")
        return
    for kind, shelf in shelves.items():
        names = ", ".join(shelf["served"]) or "none"
        if "bytes" in shelf:
            names += f"; {shelf['bytes'] / GB:.2f} GB of memory beside the model"
        remedy = "a worker starts without them" if shelf["faults"] else ""
        yield Finding(kind, "note" if remedy else "ok", "\n".join([names, *shelf["faults"]]), remedy)


def _redis(settings: Settings, data: Path) -> Finding:
    embedded = EmbeddedValkey(data)
    own = "redis_url" not in settings.model_fields_set
    if own and not embedded.socket.exists():
        try:
            return Finding("redis", "ok", f"none running; `darkroom up` starts {find_binary()}")
        except NoServer as error:
            return Finding("redis", "bad", "none, and no server to start", str(error))
    url = embedded.url if own else settings.redis_url.get_secret_value()
    try:
        if own:
            embedded.require_own()
        client = clients.client(url, socket_connect_timeout=3, socket_timeout=5, retry=Retry(NoBackoff(), 0))
        with client:
            info = client.info()
            refused = _refused(client, info)
    except NoServer as error:
        return Finding("redis", "bad", "a stranger's", str(error))
    except (redis.RedisError, ValueError, OSError) as error:
        remedy = "start it with `darkroom up`" if own else "start it, or correct REDIS_URL"
        return Finding("redis", "note" if own else "bad", f"does not answer ({type(error).__name__})", remedy)
    return refused or _durable(info, settings)


def _refused(client: redis.Redis, info: dict[str, Any]) -> Finding | None:
    if fault := cluster_fault(info):
        return Finding("redis", "bad", "is part of a cluster", fault)
    try:
        client.setrange(keys.WRITE_PROBE, 0, "")
    except redis.ResponseError as error:
        remedy = ". ".join(reasons_to_refuse_writes(info)) or "its own words say what it waits for"
        return Finding("redis", "bad", f"refuses writes: {error}", remedy)
    return None


def _durable(info: dict[str, Any], settings: Settings) -> Finding:
    # Valkey's redis_version is the one it is compatible with.
    name = info.get("server_name", "redis")
    detail = f"{name} {info.get(f'{name}_version', info['redis_version'])}, {info['used_memory'] / GB:.2f} GB used"
    if faults := durability_faults(info):
        level: Level = "bad" if settings.redis_durability == "require" else "note"
        return Finding("redis", level, f"{detail}; it may forget accepted jobs", ". ".join(faults))
    return Finding("redis", "ok", f"{detail}; durable")


def _storage(settings: Settings, data: Path) -> Finding:
    if "storage_url" not in settings.model_fields_set:
        settings = settings.model_copy(update={"storage_url": (data / "pictures").as_uri()})
    if not settings.signing_key:  # `up` makes one; nothing is signed here
        settings = settings.model_copy(update={"signing_key": SecretStr(secrets.token_hex(32))})
    place = settings.storage_url
    if place.startswith("file:") and not Path(place.removeprefix("file://")).exists():
        return Finding("storage", "ok", f"{place} will be made at the start")
    try:
        asyncio.run(asyncio.wait_for(open_pictures(settings).check(), 15))
    except (PictureStoreError, ValueError, OSError) as error:
        reason = str(error) or "no answer within 15 s"
        return Finding("storage", "bad", f"{place}: {reason}", "correct the DARKROOM_STORAGE_ settings, or its rights")
    return Finding("storage", "ok", f"{place} takes, gives and deletes")


def _former_keys(settings: Settings) -> Iterator[Finding]:
    if accepted := settings.accepted_signing_keys():
        longest = f"{settings.picture_url_seconds} s (DARKROOM_PICTURE_URL_SECONDS) after it signed the last"
        remedy = f"take a former key out of DARKROOM_SIGNING_KEYS_ACCEPTED once its links have ended: {longest}"
        yield Finding("signing", "note", f"links of {len(accepted)} more signing keys open, too", remedy)


def _disk(settings: Settings, data: Path) -> Finding:
    folder = next(each for each in (data, *data.parents) if each.exists())
    if not os.access(folder, os.W_OK):
        return Finding("disk", "bad", f"{folder} cannot be written", "choose another with --data, or change its rights")
    free = shutil.disk_usage(folder).free
    reserve = settings.storage_reserve_bytes
    detail = f"{free / GB:.1f} GB free in {folder}"
    if free < reserve:
        remedy = f"free some: below {reserve / GB:.1f} GB (DARKROOM_STORAGE_RESERVE_BYTES) no job is taken"
        return Finding("disk", "bad", detail, remedy)
    if free < 5 * reserve:
        return Finding("disk", "note", detail, f"at {reserve / GB:.1f} GB no further job is taken")
    return Finding("disk", "ok", detail)


def _port(settings: Settings) -> Finding:
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return Finding("port", "ok", f"{host}:{port} is free")
        except OSError as error:
            reason = error.strerror
    try:
        checks = httpx2.get(f"{settings.own_url}/readyz", timeout=8, trust_env=False).json()["checks"]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return Finding("port", "bad", f"{host}:{port}: {reason}", "stop what listens there, or choose another --port")
    faults = [f"{name}: {check['detail']}" for name, check in checks.items() if not check["ok"]]
    if faults:
        return Finding("port", "bad", f"darkroom answers at {settings.own_url} and is not ready", "; ".join(faults))
    return Finding("port", "ok", f"darkroom answers at {settings.own_url} and is ready")


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        text = f"{finding.detail}\n{finding.remedy}" if finding.remedy else finding.detail
        table.add_row(f"[{_COLOURS[finding.level]}]{finding.level}[/]", finding.name, Text(text, overflow="fold"))
    paper().print(table)
