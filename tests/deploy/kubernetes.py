"""What `kubectl apply -k` of an overlay would send, and what a pod of it gives to its process.

Rendered by the real kustomize that is in kubectl. Knows the few parts of a manifest that a process can feel.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.system.deployment import ROOT
from tests.waiting import WAIT_SECONDS
from worker.settings import WorkerSettings

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("one-gpu", "many-gpus")
SETTINGS: dict[str, type[Settings] | type[WorkerSettings]] = {
    "gateway": Settings,
    "webhooks": Settings,
    "worker": WorkerSettings,
}


def kustomize() -> list[str]:
    """The command. Without one the tests are skipped, in CI as well: neither pip nor Debian has one that is new enough,
    so that no step of this project could install it. Asked also while tests are collected, for their parameters."""
    for program, *arguments in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if found := shutil.which(program):
            return [found, *arguments]
    pytest.skip("no kustomize here: kubectl has one", allow_module_level=True)


@cache
def rendered(overlay: str) -> tuple[dict[str, Any], ...]:
    """Every resource of it."""
    done = subprocess.run(
        [*kustomize(), str(FOLDER / "overlays" / overlay)], capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "it warns"
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> list[dict[str, Any]]:
    return [each for each in rendered(overlay) if each["kind"] in kinds]


@dataclass(frozen=True)
class Pod:
    """One kind of pod."""

    overlay: str
    owner: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.owner["metadata"]["name"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.owner["spec"]["template"]["metadata"]["labels"])

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.owner["spec"]["template"]["spec"])

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec["containers"], *self.spec.get("initContainers", [])]

    @property
    def process(self) -> str:
        """gateway, worker or webhooks; empty for somebody else's program."""
        arguments = self.spec["containers"][0].get("args", [""])
        return arguments[0] if arguments[0] in SETTINGS else ""

    def environment(self) -> dict[str, str | None]:
        """What its process is given; None for a value out of a secret."""
        container = self.spec["containers"][0]
        maps = {each["metadata"]["name"]: each["data"] for each in of_kind(self.overlay, "ConfigMap")}
        given: dict[str, str | None] = {}
        for source in container.get("envFrom", []):
            given |= maps[source["configMapRef"]["name"]]
        return given | {each["name"]: each.get("value") for each in container.get("env", [])}

    def secrets(self, name: str = "darkroom") -> set[str]:
        """Keys of a secret that it reads."""
        asked = [
            each["valueFrom"]["secretKeyRef"]
            for each in self.spec["containers"][0].get("env", [])
            if "valueFrom" in each
        ]
        mounted = [each["secret"] for each in self.spec.get("volumes", []) if "secret" in each]
        read = {(each["name"], each["key"]) for each in asked}
        read |= {(each["secretName"], item["key"]) for each in mounted for item in each["items"]}
        assert {secret for secret, _ in read} <= {"darkroom", "darkroom-redis-users"}
        return {key for secret, key in read if secret == name}


def pods(*overlays: str) -> list[Pod]:
    return [Pod(overlay, owner) for overlay in overlays for owner in of_kind(overlay, "Deployment", "StatefulSet")]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector means a pod of these labels."""
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", rule
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def allowed(overlay: str, pod: Pod, way: str) -> Iterator[dict[str, Any]]:
    """The rules of all NetworkPolicies that let something in (`ingress`) or out (`egress`)."""
    for policy in of_kind(overlay, "NetworkPolicy"):
        if selects(policy["spec"]["podSelector"], pod.labels):
            yield from policy["spec"].get(way, [])
