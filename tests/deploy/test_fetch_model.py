"""The script that fetches a model's files before a worker starts: from a server on loopback, and what it refuses."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.contract.messages.model_name import BUNDLED_MODEL
from tests.system.deployment import ROOT
from tests.waiting import WAIT_SECONDS

FOLDER = ROOT / "deploy" / "kubernetes" / "overlays" / "many-gpus" / "fetched"
FILES = {"model_index.json": b"{}", "unet/weights.safetensors": b"w" * 3_000_000, "a name with spaces": b"x"}


@dataclass
class Source:
    """A server of one folder, and what it was asked for."""

    url: str
    folder: Path
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    folder = tmp_path / "served"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Source(f"http://127.0.0.1:{server.server_port}/", folder, asked)
        server.shutdown()
        thread.join()


def manifest(**changed: str) -> str:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()} | changed
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def fetch(url: str, text: str, target: Path) -> subprocess.CompletedProcess[str]:
    where = target.with_name("model.sha256")
    where.write_text(text)
    command = [sys.executable, str(FOLDER / "fetch_model.py"), url, str(where), str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, env={"no_proxy": "*"})


def found(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_becomes_what_the_manifest_says(source: Source, tmp_path: Path) -> None:
    target = tmp_path / "model"
    (target / "unet").mkdir(parents=True)
    (target / "unet" / "stranger.bin").write_bytes(b"of an earlier revision")
    done = fetch(source.url, manifest(), target)
    assert (done.returncode, done.stderr) == (0, "")
    assert found(target) == FILES
    assert len(source.asked) == len(FILES)
    again = fetch(source.url, manifest(), target)
    assert (again.returncode, len(source.asked)) == (0, len(FILES)), "nothing is fetched twice"
    (target / "model_index.json").write_bytes(b"[]")
    assert fetch(source.url, manifest(), target).returncode == 0
    assert found(target) == FILES, "what was changed is fetched again"


def test_what_another_pod_is_fetching_is_let_alone(source: Source, tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / ".x.pod.7.part").write_bytes(b"half")
    (target / ".x.gone.7.part").write_bytes(b"of a pod that was killed")
    long_ago = time.time() - 2 * 3600
    os.utime(target / ".x.gone.7.part", (long_ago, long_ago))
    assert fetch(source.url, manifest(), target).returncode == 0
    assert found(target) == FILES | {".x.pod.7.part": b"half"}


def test_another_revision_is_refused_and_not_kept(source: Source, tmp_path: Path) -> None:
    (source.folder / "unet" / "weights.safetensors").write_bytes(b"another")
    done = fetch(source.url, manifest(), tmp_path / "model")
    assert done.returncode == 1
    assert "unet/weights.safetensors has the hash" in done.stderr
    assert "unet/weights.safetensors" not in found(tmp_path / "model")
    assert not [name for name in found(tmp_path / "model") if name.endswith(".part")]


@pytest.mark.parametrize("line", ["../x", "/etc/x", "a/../../x", "a\\x"])
def test_no_file_is_written_outside(source: Source, tmp_path: Path, line: str) -> None:
    done = fetch(source.url, f"{'0' * 64}  {line}\n", tmp_path / "model")
    assert (done.returncode, "leads out of the folder" in done.stderr) == (1, True)
    assert source.asked == []


def test_what_is_not_there_is_said_in_one_sentence(source: Source, tmp_path: Path) -> None:
    done = fetch(source.url + "nowhere/", manifest(), tmp_path / "model")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "could not be fetched" in done.stderr
    assert fetch(source.url, "", tmp_path / "model").returncode == 1
    assert fetch("file:///etc/", manifest(), tmp_path / "model").returncode == 2


def test_the_manifest_that_is_shipped_is_of_the_bundled_model() -> None:
    lines = [line.split("  ", 1) for line in (FOLDER / "model.sha256").read_text().splitlines()]
    assert {name: digest for digest, name in lines} == {
        name: hashlib.sha256(data).hexdigest() for name, data in found(BUNDLED_MODEL).items()
    }
