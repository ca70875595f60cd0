"""deploy/prometheus and deploy/grafana: what they ask for is exported, what they fire for has an entry in the runbook,
and promtool has played each alert.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import yaml
from prometheus_client import generate_latest

from app.contract.redis.ownership import Ownership
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import serve, settings_for
from tests.conftest import IN_CI
from tests.deploy.kubernetes import FOLDER as MANIFESTS
from tests.deploy.kubernetes import of_kind
from tests.faults.scripted import CARD
from tests.system.deployment import ROOT
from tests.waiting import WAIT_SECONDS
from worker.metrics import WorkerMetrics, _Gpu

FOLDER = ROOT / "deploy" / "prometheus"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
RULES: list[dict[str, Any]] = [
    rule
    for name in ("rules.yml", "alerts.yml")
    for group in yaml.safe_load((FOLDER / name).read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "darkroom.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]

ADDED = {"instance", "pod", "namespace"}
"""Labels that a scrape adds (prometheus.yml)."""


def samples_of(text: str) -> set[str]:
    """Names under which Prometheus keeps what an exposition declares."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return {name for name in found if not name.endswith("_created")}


def labels_of(text: str) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    for name, inside in re.findall(r"^(\w+)\{(.*)\} ", text, re.M):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', inside))
    return labels


@pytest.fixture(scope="module")
def exported(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a gateway with a model and a worker with a GPU say."""
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        client.flushall()
        Ownership(client).announce(CARD, "w1")
        for running in serve(settings_for(valkey_url, tmp_path_factory.mktemp("gateway"))):
            running.client.get("/v1/models")
            gateway = running.client.get("/metrics").text
    engine: Any = SimpleNamespace(seats=4, free_seats=4, last_batch=0, preview_failures=0)
    metrics = WorkerMetrics(engine, models=["m"])
    # A GPU that answers nothing: what is asked of it is declared all the same.
    metrics.registry.register(_Gpu(SimpleNamespace(NVMLError=AttributeError), None))
    return gateway + generate_latest(metrics.registry).decode()


def scaled_by() -> list[str]:
    """The questions of a scaler of deploy/kubernetes, as they are before a model is put in: also without kustomize."""
    scaler = yaml.safe_load((MANIFESTS / "components" / "keda" / "scaling.yaml").read_text())
    return [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]


def names_in(expression: str) -> set[str]:
    return {*re.findall(r"\bdarkroom[a-z0-9_:]*", re.sub(r"\{[^}]*\}", "", expression))}


def test_every_metric_that_is_asked_for_is_exported(exported: str) -> None:
    known = samples_of(exported) | {rule["record"] for rule in RULES if "record" in rule}
    asked = {name for each in [*(rule["expr"] for rule in RULES), *QUERIES, *scaled_by()] for name in names_in(each)}
    assert len(asked) > 20
    assert asked - known == set()


def test_every_label_that_is_asked_for_is_one_of_the_metric(exported: str) -> None:
    known = set.union(*labels_of(exported).values()) | {"gpu", "outcome", "problem", "stage", "task", "le"} | ADDED
    for expression in [*(rule["expr"] for rule in RULES), *QUERIES, *scaled_by()]:
        named = {
            word for group in re.findall(r"by \(([^)]*)\)", expression) for word in group.replace(",", " ").split()
        }
        named |= {*re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)}
        assert named <= known, expression


def test_a_wait_that_was_asked_for_is_not_slow() -> None:
    """Of every route that waits or streams, as the OpenAPI says, and of few others; but not where a job only waits for
    who asks: such an answer is not counted (test_metrics.py), and the others are watched."""
    [rule] = [rule for rule in RULES if rule.get("record") == "darkroom:http_first_byte_seconds:p99_5m"]
    left_out = re.findall(r'route!~"([^"]*)"', rule["expr"])
    paths = create_app(Settings()).openapi()["paths"]
    can_wait = {path for path, ways in paths.items() if any(map(_can_wait, ways.values()))}
    assert {"/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/events"} <= can_wait
    measured = {path for path in paths if not any(re.fullmatch(pattern, path) for pattern in left_out)}
    assert measured & can_wait == {"/v1/jobs", "/v1/jobs/{job_id}"}
    assert {"/v1/models", "/v1/inputs", "/v1/jobs/{job_id}/cancel", "/sdapi/v1/progress"} <= measured


def _can_wait(operation: dict[str, Any]) -> bool:
    asked = {parameter["name"] for parameter in operation.get("parameters", [])}
    streams = any("text/event-stream" in answer.get("content", {}) for answer in operation["responses"].values())
    return streams or not asked.isdisjoint({"Prefer", "wait"})


def test_the_rate_that_gateways_are_scaled_by_is_made_of_one_that_is_exported(exported: str) -> None:
    [rule] = yaml.safe_load((FOLDER / "adapter.yaml").read_text())["rules"]
    source = rule["seriesQuery"].partition("{")[0]
    made = re.sub(rule["name"]["matches"], rule["name"]["as"].replace("${1}", r"\1"), source)
    asked = {
        metric["pods"]["metric"]["name"]
        for scaler in of_kind("many-gpus", "HorizontalPodAutoscaler")
        for metric in scaler["spec"]["metrics"]
        if metric["type"] == "Pods"
    }
    assert asked == {made}
    assert source in samples_of(exported)


def test_every_alert_names_an_entry_of_the_runbook_and_every_entry_an_alert() -> None:
    entries = re.findall(r"^#### (\w+)$", OPERATIONS.split("### When an alert fires")[1].split("\n### ")[0], re.M)
    assert entries == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")


def test_every_alert_is_played_to_fire_and_not_to_fire() -> None:
    tests = yaml.safe_load((FOLDER / "tests.yml").read_text())["tests"]
    played = [each for test in tests for each in test["alert_rule_test"]]
    fires = {each["alertname"] for each in played if each["exp_alerts"]}
    rests = {each["alertname"] for each in played if not each["exp_alerts"]}
    assert fires == rests == {rule["alert"] for rule in ALERTS}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Of Debian's package prometheus. Without one the tests are skipped, and in CI they fail."""
    program = shutil.which("promtool")
    if program is None:
        (pytest.fail if IN_CI else pytest.skip)("no promtool here: `make prometheus-deps` installs Debian's")
    command = [str(program), *arguments]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=WAIT_SECONDS)


def test_prometheus_takes_the_rules_and_each_alert_fires_when_it_should() -> None:
    checked = promtool("check", "rules", "rules.yml", "alerts.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    played = promtool("test", "rules", "tests.yml")
    assert played.returncode == 0, played.stdout + played.stderr


def test_the_scrape_finds_the_pods_by_what_they_are_annotated_with() -> None:
    """Debian's promtool is built without Kubernetes, and cannot check this file."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert config["rule_files"] == ["rules.yml", "alerts.yml"]
    [job] = config["scrape_configs"]
    asked = {label for rule in job["relabel_configs"] for label in rule["source_labels"]}
    assert {rule.get("target_label") for rule in job["relabel_configs"]} - {None} <= ADDED | {"process_kind"}
    for deployment in of_kind("many-gpus", "Deployment"):
        template = deployment["spec"]["template"]
        ports = {port["name"] for port in template["spec"]["containers"][0].get("ports", [])}
        is_scraped = template["metadata"].get("annotations", {}).get("prometheus.io/scrape") == "true"
        assert is_scraped == ("metrics" in ports)
    assert "__meta_kubernetes_pod_annotation_prometheus_io_scrape" in asked


def test_the_dashboard_has_a_place_for_each_panel() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
