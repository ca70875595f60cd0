"""What `darkroom up` cannot start with: it says so in a sentence, and leaves nothing behind."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from tests.system.conftest import COMMAND, Installation, processes_of
from tests.waiting import WAIT_SECONDS


def fails_with(installation: Installation, *words: str) -> None:
    installation.start()
    said = installation.output()
    assert installation.process is not None
    assert installation.process.returncode == 78, said
    for word in words:
        assert word in said, said
    assert "Traceback" not in said
    assert processes_of(installation.data) == {}


def test_a_busy_port(closed_installation: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", closed_installation.port))
        taken.listen()
        fails_with(closed_installation, f"darkroom: 127.0.0.1:{closed_installation.port} cannot be used", "--port")


def test_a_data_folder_that_cannot_be_written(closed_installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    closed_installation.data = tmp_path / "file" / "data"
    fails_with(closed_installation, "cannot be written", "--data")


def test_a_folder_that_is_no_model(closed_installation: Installation, tmp_path: Path) -> None:
    closed_installation.environment["DARKROOM_MODEL"] = str(tmp_path)
    fails_with(closed_installation, "worker cannot start", "model_index.json")


def test_a_misspelt_setting(closed_installation: Installation) -> None:
    closed_installation.environment["DARKROOM_SEAT"] = "4"
    fails_with(closed_installation, "DARKROOM_SEAT is not", "DARKROOM_SEATS")


def test_generate_without_a_service(closed_installation: Installation, tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "generate", "a circle", "-o", str(tmp_path / "out.png"), "--url", closed_installation.url],
        capture_output=True, text=True, timeout=WAIT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 3
    assert "darkroom up" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_redis_that_is_not_there(closed_installation: Installation) -> None:
    closed_installation.environment["REDIS_URL"] = f"redis://127.0.0.1:{closed_installation.port}/0"
    fails_with(closed_installation, "does not answer", "REDIS_URL")
