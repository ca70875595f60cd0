"""deploy/kubernetes: rendered by kustomize, valid for Kubernetes, and held against the code that runs in it.

No cluster and no container is started: deploy/README.md says so.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import redis
import yaml

from app.cli.embedded import find_binary
from app.cli.gateway import GRACE_SECONDS
from app.contract.common.environment import read_settings
from app.contract.redis.durability import cluster_fault, durability_faults
from app.webhooks import main as webhooks
from app.webhooks.options import WebhookOptions
from benchmarks.ports import free_port
from tests.app.conftest import Running, begin_anew, serve, settings_for
from tests.deploy.kubernetes import FOLDER, OVERLAYS, SETTINGS, Pod, allowed, of_kind, pods, rendered, selects
from tests.deploy.redis_users import USERS, users_file
from tests.system.deployment import ROOT, environment_file, read_dockerfile
from tests.waiting import WAIT_SECONDS, until
from worker.main import HEARTBEAT_FILE_SECONDS

KUBERNETES = "1.34"
OF_OTHERS = {"ScaledObject"}
"""Kinds that Kubernetes itself does not know."""

IMAGES = {"gateway": "gateway", "webhooks": "gateway", "worker": "worker"}
"""Each process with its stage of the Dockerfile."""

EVERY_POD = [pytest.param(pod, id=f"{pod.overlay}-{pod.name}") for pod in pods(*OVERLAYS)]
OURS = [pytest.param(pod, id=f"{pod.overlay}-{pod.name}") for pod in pods(*OVERLAYS) if pod.process]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_would_take_it(overlay: str) -> None:
    for resource in rendered(overlay):
        if resource["kind"] not in OF_OTHERS:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_the_validation_can_refuse() -> None:
    broken = {**rendered("one-gpu")[0], "spec": {"podSelectr": {}}, "kind": "NetworkPolicy"}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken | {"apiVersion": "networking.k8s.io/v1"}, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_one_namespace(overlay: str) -> None:
    assert {each["metadata"].get("namespace") for each in rendered(overlay) if each["kind"] != "Namespace"} == {
        "darkroom"
    }


@pytest.mark.parametrize("pod", OURS)
def test_a_process_is_given_settings_of_its_own_and_starts_with_them(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = SETTINGS[pod.process]
    given = pod.environment()
    assert {name.removeprefix("DARKROOM_").lower() for name in given} <= kind.model_fields.keys()
    image = read_dockerfile(ROOT / "Dockerfile")[IMAGES[pod.process]].environment
    secret = {"DARKROOM_REDIS_URL": "redis://u:p@valkey:6379/0"}
    for name, value in (image | given).items():
        monkeypatch.setenv(name, value if value is not None else secret.get(name, "s" * 32))
    settings = read_settings(kind)
    assert {name.removeprefix("DARKROOM_").lower() for name in given} <= settings.model_fields_set
    if pod.process == "gateway":
        assert settings.why_not_listen() is None  # type: ignore[union-attr]


@pytest.mark.parametrize("pod", OURS)
def test_no_variable_of_kubernetes_itself_is_taken_for_a_setting(pod: Pod) -> None:
    """A Service named darkroom-… would make DARKROOM_…_PORT of every pod, and no process starts with that."""
    assert pod.spec["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gateway_and_webhooks_say_the_same_of_jobs_and_pictures(overlay: str) -> None:
    gateway, webhooks = (
        {pod.name: pod.environment() for pod in pods(overlay)}[name] for name in ("gateway", "webhooks")
    )
    of_the_listener = {"DARKROOM_HOST", "DARKROOM_PORT", "DARKROOM_METRICS_PORT", "DARKROOM_GATEWAY_PROCESSES"}
    assert {name for name in gateway if gateway[name] != webhooks.get(name)} <= of_the_listener | {
        "DARKROOM_REQUIRE_KEYS"
    }
    assert {"DARKROOM_PUBLIC_URL", "DARKROOM_SIGNING_KEY", "DARKROOM_STORAGE_URL"} <= webhooks.keys()
    assert gateway["DARKROOM_GATEWAY_PROCESSES"] == "1"


def test_the_example_names_every_secret_and_no_other() -> None:
    example = environment_file(FOLDER / "secrets.env.example")
    assert set.union(*(pod.secrets() for pod in pods(*OVERLAYS))) == {*example}
    for name in USERS:
        assert urlsplit(example[f"redis-url-{name}"]).username == name, "each process has a user of its own"
    for pod in pods(*OVERLAYS):
        asked = {each for each in pod.secrets() if each.startswith("redis-url-")}
        assert asked == ({f"redis-url-{pod.process}"} if pod.process else set())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="only kubectl makes a secret")
def test_the_commands_of_the_readme_make_the_secrets_that_pods_read(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "secrets.env.example", tmp_path / "secrets.env")
    (tmp_path / "users.acl").write_text(users_file())
    readme = (FOLDER.parent / "README.md").read_text()
    commands = re.findall(r"^kubectl .* create secret .*$", readme, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = [*shlex.split(command, comments=True), "--dry-run=client", "--output=json"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        secret = json.loads(done.stdout)
        name = secret["metadata"]["name"]
        assert secret["data"].keys() == set.union(*(pod.secrets(name) for pod in pods(*OVERLAYS)))


@pytest.mark.parametrize("pod", EVERY_POD)
def test_nobody_is_root_and_nothing_is_written_but_volumes(pod: Pod) -> None:
    whole = pod.spec["securityContext"]
    assert (whole["runAsNonRoot"], whole["seccompProfile"]["type"]) == (True, "RuntimeDefault")
    assert pod.spec["automountServiceAccountToken"] is False
    if pod.process:
        assert f"{whole['runAsUser']}:{whole['runAsGroup']}" == read_dockerfile(ROOT / "Dockerfile")["gateway"].user
    for container in pod.containers:
        own = container["securityContext"]
        assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert {"memory"} <= container["resources"]["limits"].keys()
        mounted = {each["name"] for each in container["volumeMounts"]}
        claimed = {each["metadata"]["name"] for each in pod.owner["spec"].get("volumeClaimTemplates", [])}
        assert mounted <= {each["name"] for each in pod.spec["volumes"]} | claimed


@pytest.mark.parametrize("pod", EVERY_POD)
def test_labels_ports_and_claims_lead_somewhere(pod: Pod) -> None:
    assert selects(pod.owner["spec"]["selector"], pod.labels)
    others = [each for each in pods(pod.overlay) if each.name != pod.name]
    assert not [each.name for each in others if selects(pod.owner["spec"]["selector"], each.labels)]
    claims = {each["metadata"]["name"] for each in of_kind(pod.overlay, "PersistentVolumeClaim")}
    asked = {
        each["persistentVolumeClaim"]["claimName"] for each in pod.spec["volumes"] if "persistentVolumeClaim" in each
    }
    assert asked <= claims
    maps = {each["metadata"]["name"] for each in of_kind(pod.overlay, "ConfigMap")}
    assert {each["configMap"]["name"] for each in pod.spec["volumes"] if "configMap" in each} <= maps


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_names_a_deployment_or_a_pod_finds_it(overlay: str) -> None:
    here = pods(overlay)
    names = {pod.name for pod in here}
    for each in of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject"):
        assert each["spec"]["scaleTargetRef"]["name"] in names
    for each in of_kind(overlay, "PodDisruptionBudget"):
        assert [pod.name for pod in here if selects(each["spec"]["selector"], pod.labels)] == ["gateway"]
    for service in of_kind(overlay, "Service"):
        [pod] = [pod for pod in here if service["spec"]["selector"].items() <= pod.labels.items()]
        ports = {port["name"] for port in pod.spec["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("pod", OURS)
def test_ports_are_those_that_are_listened_on(pod: Pod) -> None:
    given = pod.environment()
    said = {"http": given.get("DARKROOM_PORT")}
    said["metrics"] = given.get("DARKROOM_METRICS_PORT") or given.get("DARKROOM_WORKER_METRICS_PORT")
    ports = {port["name"]: str(port["containerPort"]) for port in pod.spec["containers"][0].get("ports", [])}
    assert ports == {name: port for name, port in said.items() if port}
    notes = pod.owner["spec"]["template"]["metadata"].get("annotations", {})
    assert notes.get("prometheus.io/port") == said["metrics"]
    if said["metrics"]:
        assert given["DARKROOM_METRICS_HOST"] == "0.0.0.0", "loopback is not scraped from elsewhere"


@pytest.fixture(scope="module")
def gateway(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(settings_for(valkey_url, tmp_path_factory.mktemp("gateway")))


def test_probes_are_routes_that_answer_also_without_a_worker(gateway: Running, redis_client: redis.Redis) -> None:
    asked = {
        probe["httpGet"]["path"]
        for pod in pods(*OVERLAYS)
        for name, probe in pod.spec["containers"][0].items()
        if name.endswith("Probe") and "httpGet" in probe
    }
    assert asked == {"/healthz", "/readyz?exclude=workers"}
    begin_anew(gateway)
    assert {path: gateway.client.get(path).status_code for path in asked} == dict.fromkeys(asked, 200)
    assert gateway.client.get("/readyz").status_code == 503, "as nobody draws"
    unknown = gateway.client.get("/readyz?exclude=wrokers")
    assert (unknown.status_code, unknown.json()["errors"][0]["parameter"]) == (422, "exclude")


@pytest.mark.parametrize("pod", [each for each in OURS if each.values[0].process == "worker"])  # type: ignore[attr-defined]
def test_a_worker_that_beats_is_alive_and_one_that_loads_has_time(pod: Pod, tmp_path: Path) -> None:
    container = pod.spec["containers"][0]
    file = str(pod.environment()["DARKROOM_HEARTBEAT_FILE"])
    for name in ("startupProbe", "livenessProbe"):
        command = [word.replace(file, str(tmp_path / "alive")) for word in container[name]["exec"]["command"]]
        assert command != container[name]["exec"]["command"], "it looks at the file of the setting"
        (tmp_path / "alive").unlink(missing_ok=True)
        assert subprocess.run(command, capture_output=True).returncode != 0
        (tmp_path / "alive").touch()
        assert subprocess.run(command, capture_output=True).returncode == 0
    alive = container["livenessProbe"]
    assert alive["periodSeconds"] * alive["failureThreshold"] > 3 * HEARTBEAT_FILE_SECONDS
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["worker"]["healthcheck"]
    start = container["startupProbe"]
    loading = int(compose["start_period"].removesuffix("s"))
    assert start["periodSeconds"] * start["failureThreshold"] >= loading
    assert pod.owner["spec"]["progressDeadlineSeconds"] > loading
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("pod", OURS)
def test_every_process_has_longer_to_end_than_it_takes(pod: Pod) -> None:
    given = pod.environment()
    needs = {
        "gateway": 5 + GRACE_SECONDS + 2,
        "webhooks": WebhookOptions().grace_seconds + webhooks.FLUSH_SECONDS,
        "worker": float(given.get("DARKROOM_GRACE_SECONDS") or 20) + 10,
    }
    assert pod.spec["terminationGracePeriodSeconds"] > needs[pod.process]
    pause = pod.spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
    assert pause == (["sleep", "5"] if pod.process == "gateway" else None)


EVERYWHERE = "0.0.0.0/0"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_gateway_and_webhooks_reach_the_internet_and_nobody_reaches_a_worker(overlay: str) -> None:
    out, into = {}, {}
    for pod in pods(overlay):
        blocks = [to["ipBlock"] for rule in allowed(overlay, pod, "egress") for to in rule["to"] if "ipBlock" in to]
        out[pod.name] = [block for block in blocks if block["cidr"] == EVERYWHERE]
        into[pod.name] = {port["port"] for rule in allowed(overlay, pod, "ingress") for port in rule["ports"]}
    assert {name for name, blocks in out.items() if blocks} == {"gateway", "webhooks"}
    for block in (block for blocks in out.values() for block in blocks):
        assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= {*block["except"]}
    for pod in pods(overlay):
        listens = {port["containerPort"] for port in pod.spec["containers"][0].get("ports", [])}
        wanted = listens & {9100, 9101} if pod.process == "worker" else listens
        assert into[pod.name] & listens == wanted
    closed = [each for each in of_kind(overlay, "NetworkPolicy") if each["metadata"]["name"] == "nothing"]
    for pod in pods(overlay):
        assert selects(closed[0]["spec"]["podSelector"], pod.labels), pod.name
    assert {*closed[0]["spec"]["policyTypes"]} == {"Ingress", "Egress"}


@pytest.mark.parametrize("pod", OURS)
def test_every_process_reaches_its_redis(pod: Pod) -> None:
    ports = {port["port"] for rule in allowed(pod.overlay, pod, "egress") for port in rule["ports"]}
    assert {53, 6379} <= ports
    assert ("valkey" in {each.name for each in pods(pod.overlay)}) == (pod.overlay == "one-gpu")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_way_in_keeps_the_path_and_lets_streams_and_pictures_through(overlay: str) -> None:
    [ingress] = of_kind(overlay, "Ingress")
    [gateway] = [pod for pod in pods(overlay) if pod.name == "gateway"]
    public = urlsplit(str(gateway.environment()["DARKROOM_PUBLIC_URL"]))
    [rule] = ingress["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert (rule["host"], path["path"], path["pathType"]) == (public.hostname, public.path, "Prefix")
    assert [each["hosts"] for each in ingress["spec"]["tls"]] == [[public.hostname]]
    [service] = [each for each in of_kind(overlay, "Service") if each["metadata"]["name"] == "gateway"]
    assert path["backend"]["service"] == {"name": "gateway", "port": {"name": service["spec"]["ports"][0]["name"]}}
    said = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert "rewrite-target" not in said
    assert said["enable-access-log"] == "false", "it has the signatures of picture links"
    assert said["proxy-buffering"] == "off"
    assert int(said["proxy-read-timeout"]) > 590
    assert (said["proxy-body-size"], said["proxy-request-buffering"]) == ("0", "off"), "the gateway bounds bodies"


def test_the_models_of_the_scalers_are_those_that_are_served() -> None:
    workers = {pod.name: pod for pod in pods("many-gpus") if pod.process == "worker"}
    scalers = of_kind("many-gpus", "ScaledObject")
    assert {each["spec"]["scaleTargetRef"]["name"] for each in scalers} == workers.keys()
    for scaler in scalers:
        pod = workers[scaler["spec"]["scaleTargetRef"]["name"]]
        [trigger] = scaler["spec"]["triggers"]
        models = {*re.findall(r'model="([^"]*)"', trigger["metadata"]["query"])}
        assert models == {pod.environment()["DARKROOM_MODEL_NAME"]} == {pod.labels["darkroom/model"]}
        assert "replicas" not in pod.owner["spec"], "two would decide"
        assert scaler["spec"]["minReplicaCount"] == 0
        assert scaler["spec"]["fallback"]["replicas"] > 0, "no answer is no empty queue"
        assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_a_fetched_model_is_mounted_where_it_was_put() -> None:
    [pod] = [pod for pod in pods("many-gpus") if pod.name == "worker-fetched"]
    [fetch] = pod.spec["initContainers"]
    url, manifest, folder = fetch["args"]
    assert re.search(r"/[0-9a-f]{40}/$", url), "a revision that nobody can change"
    assert folder.rpartition("/")[2] == url.split("/")[-2], "another revision is another folder: this one is being read"
    assert pod.environment()["DARKROOM_MODEL"] == folder
    mounts = {each["mountPath"]: each for each in fetch["volumeMounts"]}
    files = {each["metadata"]["name"]: each["data"] for each in of_kind("many-gpus", "ConfigMap")}
    [source] = [each["configMap"]["name"] for each in pod.spec["volumes"] if each["name"] == "model"]
    assert {f"{path}/{name}" for path in mounts for name in files[source] if mounts[path]["name"] == "model"} >= {
        manifest,
        fetch["command"][1],
    }
    [worker] = [each for each in pod.spec["containers"][0]["volumeMounts"] if each["name"] == "models"]
    assert (worker["readOnly"], folder.startswith(worker["mountPath"])) == (True, True)


def test_its_valkey_keeps_what_it_accepts_and_knows_the_users(tmp_path: Path) -> None:
    """The real server with the arguments of the pod."""
    [pod] = [pod for pod in pods("one-gpu") if pod.name == "valkey"]
    (tmp_path / "users.acl").write_text(re.sub(r">REPLACE-ME-\w+", ">secret", users_file()))
    container, port = pod.spec["containers"][0], free_port()
    places = {"/data": str(tmp_path), "/etc/valkey/users.acl": str(tmp_path / "users.acl")}
    arguments = [places.get(word, word) for word in container["args"]]
    assert {*places} <= {*container["args"]}
    process = subprocess.Popen(
        [find_binary(), *arguments, "--port", str(port), "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL
    )
    try:
        with redis.Redis(port=port, username="gateway", password="secret", decode_responses=True) as client:
            info: Any = until(lambda: _info(client))
            assert (durability_faults(info), cluster_fault(info)) == ([], None)
            assert info["role"] == "master"
            assert 0 < info["maxmemory"] < _bytes_of(container["resources"]["limits"]["memory"])
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def _bytes_of(quantity: str) -> int:
    return int(quantity.removesuffix("Gi")) * 2**30


def _info(client: redis.Redis) -> Any:
    try:
        return client.info()
    except redis.ConnectionError:
        return None
