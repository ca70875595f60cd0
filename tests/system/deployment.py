"""What Dockerfile and docker-compose.yml say of each service, and how it is started here without a container.

Knows compose's interpolation and the few instructions of a Dockerfile that a process can feel. What exists only inside
a container (names of other services, published ports, paths) is translated by one table, `Here`; nothing else is
added to or taken from an environment.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.waiting import WAIT_SECONDS

ROOT = Path(__file__).parents[2]

BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/darkroom"}
"""Of the base image, and what the runtime takes from /etc/passwd: useradd makes no such folder."""

_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")


def environment_file(path: Path) -> dict[str, str]:
    """The lines `name=value` of a .env file, as compose reads plain ones."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """`text` as compose fills it in. KeyError with the message of a `${NAME:?message}` that has no value."""
    parts, at = [], 0
    while (found := text.find("$", at)) >= 0:
        parts.append(text[at:found])
        if text.startswith("$$", found):
            parts.append("$")
            at = found + 2
        elif text.startswith("${", found):
            at = _end_of(text, found + 2)
            parts.append(_braced(text[found + 2 : at - 1], variables))
        else:
            name = _NAME.match(text, found + 1)
            assert name, text
            parts.append(variables.get(name[0], ""))
            at = name.end()
    return "".join([*parts, text[at:]])


def _end_of(text: str, at: int) -> int:
    depth = 1
    while depth:
        depth += {"{": text[at - 1] == "$", "}": -1}.get(text[at], 0)
        at += 1
    return at


def _braced(inside: str, variables: Mapping[str, str]) -> str:
    name = _NAME.match(inside)
    assert name, inside
    operator = re.match(r":?[-?+]|$", inside[name.end() :])
    assert operator, f"compose does not know {inside}"
    rest = inside[name.end() + len(operator[0]) :]
    value = variables.get(name[0])
    is_there = bool(value) if operator[0].startswith(":") else value is not None
    match operator[0][-1:]:
        case "-":
            return value or "" if is_there else interpolate(rest, variables)
        case "+":
            return interpolate(rest, variables) if is_there else ""
        case "?" if not is_there:
            raise KeyError(f"{name[0]}: {interpolate(rest, variables)}")
    return value or ""


def read_compose(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The services of a compose file, with every value filled in. A null in an environment is taken from outside."""

    def filled(node: Any) -> Any:
        if isinstance(node, str):
            return interpolate(node, variables)
        if isinstance(node, list):
            return [filled(each) for each in node]
        return {name: filled(each) for name, each in node.items()} if isinstance(node, dict) else node

    services: dict[str, Any] = filled(yaml.safe_load(path.read_text()))["services"]
    for service in services.values():
        given = {name: variables.get(name) if value is None else value for name, value in _environment(service)}
        service["environment"] = {name: _as_text(value) for name, value in given.items() if value is not None}
    return services


def _environment(service: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return dict(service.get("environment", {})).items()


@dataclass
class Image:
    """What a stage of a Dockerfile gives to the processes that run in it."""

    environment: dict[str, str] = field(default_factory=lambda: dict(BASE_ENVIRONMENT))
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] | None = None
    copied: dict[str, str] = field(default_factory=dict)


def read_dockerfile(path: Path) -> dict[str, Image]:
    """Every named stage."""
    stages: dict[str, Image] = {}
    image = Image()
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        match instruction:
            case "FROM":
                source, _, name = rest.partition(" AS ")
                parent = stages.get(source, Image())
                stages[name] = image = Image(dict(parent.environment), parent.user, copied=dict(parent.copied))
            case "ENV":
                for pair in shlex.split(rest):
                    name, _, value = pair.partition("=")
                    image.environment[name] = interpolate(value, image.environment)
            case "USER":
                image.user = rest
            case "ENTRYPOINT":
                image.entrypoint = json.loads(rest)
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.healthcheck = ["CMD", *json.loads(rest.partition("CMD")[2])]
            case "COPY" if not rest.startswith("--"):
                *sources, target = rest.split()
                image.copied[target] = sources[-1]
    return stages


@dataclass(frozen=True)
class Service:
    """One service: the command line and the environment that its process gets, and how its health is asked."""

    name: str
    command: list[str]
    environment: dict[str, str]
    user: str
    healthcheck: list[str] | None
    writable: frozenset[str]
    """Folders that can be written although the file system cannot: volumes and tmpfs."""
    sources: dict[str, str]
    """Folders of this checkout that are seen inside, by their path there."""
    ports: dict[str, str]
    """Published ports: the one inside to the one of the machine."""


def read_service(name: str, compose: Mapping[str, Any], images: Mapping[str, Image]) -> Service:
    """A service as its container would be made."""
    said = compose[name]
    built = {each["image"]: each["build"]["target"] for each in compose.values() if "build" in each}
    image = images[built[said["image"]]] if said["image"] in built else Image({})
    entrypoint = said.get("entrypoint", image.entrypoint)
    command = said.get("command", image.command if "entrypoint" not in said else [])
    health = said.get("healthcheck", {})
    mounts = [mount if isinstance(mount, dict) else _short(mount) for mount in said.get("volumes", [])]
    bound = {mount["target"]: mount["source"] for mount in mounts if mount["type"] == "bind"}
    return Service(
        name=name,
        command=[*entrypoint, *command],
        environment=image.environment | said["environment"],
        user=said.get("user", image.user),
        healthcheck=None if health.get("disable") else health.get("test", image.healthcheck),
        writable=frozenset(mount["target"] for mount in mounts if not mount.get("read_only")) | {*said["tmpfs"]},
        sources=image.copied | bound,
        ports={inside: outside for outside, _, inside in (port.partition(":") for port in said.get("ports", []))},
    )


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(mount: str) -> dict[str, str]:
    source, _, target = mount.partition(":")
    return {"type": "bind" if source.startswith((".", "/")) else "volume", "source": source, "target": target}


@dataclass(frozen=True)
class Here:
    """Where things are on this machine that a service knows by its names for them."""

    addresses: dict[str, str]
    """`host:port` inside the network of compose, to `host:port` here."""
    programs: dict[str, str]
    folder: Path
    """Holds one folder for each place that a service may write."""

    def place(self, service: Service, path: str) -> Path:
        """A folder that the service may write."""
        return self.folder / service.name / path.strip("/").replace("/", "-")

    def translated(self, text: str, service: Service) -> str:
        """`text` with our names for what it names. A published port is the one of this machine."""
        copied = {path: str(ROOT / source) for path, source in service.sources.items() if path.startswith("/")}
        paths = self.programs | copied | {path: str(self.place(service, path)) for path in service.writable}
        known = self.addresses | paths
        # In one go: what was put in must not be taken for what is looked for.
        names = rf"(?<![\w.])(?:{_either(self.addresses)})(?!\w)|(?<![\w/.-])(?:{_either(paths)})(?![\w.-])"
        text = re.sub(names, lambda found: known[found[0]], text)
        for inside, outside in service.ports.items():
            text = re.sub(rf"(^|port=|127\.0\.0\.1:){inside}(?!\w)", rf"\g<1>{outside}", text)
        return text

    def environment(self, service: Service) -> dict[str, str]:
        return {name: self.translated(value, service) for name, value in service.environment.items()}

    def start(self, service: Service, log: Path, *, extra: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """The service's process, in an empty working folder. `extra` arguments keep foreign servers on loopback."""
        for path in service.writable:
            self.place(service, path).mkdir(mode=0o700, parents=True, exist_ok=True)
        program, *arguments = [self.translated(word, service) for word in service.command]
        own = self.work_folder(service)
        own.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as sink:
            command = [self._found(program, service), *arguments, *extra]
            return subprocess.Popen(
                command, env=self.environment(service), cwd=own, stdout=sink, stderr=sink, start_new_session=True
            )

    def work_folder(self, service: Service) -> Path:
        return self.folder / service.name / "work"

    def is_healthy(self, service: Service) -> bool:
        """What the container's health check says, run as the container would run it."""
        assert service.healthcheck is not None
        kind, *words = service.healthcheck
        test = ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
        command = [self.translated(word, service) for word in test]
        command[0] = self._found(command[0], service)
        done = subprocess.run(
            command,
            env=self.environment(service),
            cwd=self.work_folder(service),
            capture_output=True,
            timeout=WAIT_SECONDS,
        )
        return done.returncode == 0

    def _found(self, program: str, service: Service) -> str:
        if os.path.isabs(program):
            return program
        if program in self.programs:
            return self.programs[program]
        path = self.environment(service).get("PATH", BASE_ENVIRONMENT["PATH"])
        places = (Path(folder) / program for folder in path.split(":"))
        return str(next(place for place in places if place.exists()))


def _either(names: Mapping[str, str]) -> str:
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
