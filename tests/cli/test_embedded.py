"""The embedded server in folders that people really have, and beside strangers."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from app.cli import sockets
from app.cli.embedded import EmbeddedValkey, NoServer, find_binary
from app.cli.keys import show
from app.cli.private import is_private
from app.cli.sockets import find_socket
from tests.waiting import WAIT_SECONDS, until

LONG = "long" * 30


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose sockets have short names, which pytest's own do not, and TMPDIR need not."""
    with tempfile.TemporaryDirectory(prefix="dr-", dir=sockets.SHORT) as folder:
        yield Path(folder)


@pytest.fixture
def temporary(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory, for this process, as others can write in it too."""
    folder = short / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@contextmanager
def stranger(socket: Path, work: Path) -> Iterator[redis.Redis]:
    """A Valkey that somebody else put there."""
    work.mkdir(parents=True)
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(work), "--save", ""]
    process = subprocess.Popen([find_binary(), *options], stdout=subprocess.DEVNULL)
    try:
        until(socket.exists)
        with redis.Redis(unix_socket_path=str(socket), decode_responses=True) as client:
            until(client.ping)
            yield client
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["my data", "Bücher", LONG], ids=["space", "umlaut", "long"])
def test_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "logs").mkdir(parents=True)
    server = EmbeddedValkey(tmp_path / name)
    server.start()
    try:
        client = server._client()
        assert client.client_info()["db"] == 0, "what RQ asks for when a worker registers"
        client.set("kept", "1")
        assert is_private(server.socket.parent, like=tmp_path)
    finally:
        server.stop()
    assert not server.socket.exists()
    again = EmbeddedValkey(tmp_path / name)
    again.start()
    try:
        assert again._client().get("kept") == b"1"
    finally:
        again.stop()


def test_a_strangers_server_at_a_name_that_can_be_guessed(short: Path, temporary: Path) -> None:
    data = short / LONG
    (data / "logs").mkdir(parents=True)
    beside = (data / "valkey").resolve() / "valkey.sock"
    guessed = temporary / f"darkroom-{hashlib.sha256(str(beside).encode()).hexdigest()[:12]}"
    guessed.mkdir()
    guessed.chmod(0o755)
    with stranger(guessed / "valkey.sock", short / "elsewhere") as client:
        server = EmbeddedValkey(data)
        server.start()
        try:
            server._client().set("secret", "1")
            assert server.process is not None
            assert client.get("secret") is None
        finally:
            server.stop()


def test_a_strangers_server_in_the_folder_itself(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that was copied or renamed while its server ran: it would keep the jobs of two."""
    (short / "logs").mkdir()
    (short / "valkey").mkdir(mode=0o700)
    with stranger(short / "valkey" / "valkey.sock", short / "elsewhere") as client:
        server = EmbeddedValkey(short)
        with pytest.raises(NoServer, match="is not the server of"):
            server.start()
        server.stop()
        assert client.ping(), "what was refused is not ended"
        assert show(data=short, as_json=True) == 2
        assert "is not the server of" in capsys.readouterr().err


def test_another_temporary_directory_finds_the_same_server(
    short: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = short / LONG
    (data / "logs").mkdir(parents=True)
    server = EmbeddedValkey(data)
    server.start()
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(short))
        other = EmbeddedValkey(data)
        other.start()
        assert (other.socket, other.process) == (server.socket, None)
    finally:
        server.stop()


def test_a_long_temporary_directory_is_passed_over(
    short: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left in it; where no place is short the refusal names them all."""
    folder, too_long = short / LONG / "valkey", temporary / LONG
    for each in (folder, too_long, short / "free", short / "with spaces"):
        each.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(too_long))
    monkeypatch.setattr(sockets, "SHORT", str(short / "free"))
    made = sockets.make_socket(folder)
    assert made.parent.parent == short / "free"
    assert find_socket(folder) == sockets.make_socket(folder) == made
    assert list(too_long.iterdir()) == []
    sockets.remove_socket(made, folder)
    for unfit in (short / "with spaces", short / "nowhere"):
        monkeypatch.setattr(sockets, "SHORT", str(unfit))
        with pytest.raises(sockets.NoPlace, match=f"neither in {folder} nor {too_long} nor {unfit} .*another --data"):
            sockets.make_socket(folder)


@pytest.mark.parametrize("spoilt", ["open", "link"])
def test_a_noted_place_that_others_could_have_made_is_not_believed(short: Path, temporary: Path, spoilt: str) -> None:
    folder = short / LONG / "valkey"
    folder.mkdir(parents=True)
    place = temporary / "darkroom-x"
    (folder / "socket").write_text(str(place / "valkey.sock"))
    assert find_socket(folder).parent == folder.resolve(), "it is not there"
    if spoilt == "open":
        place.mkdir()
        place.chmod(0o770)
    else:
        (temporary / "real").mkdir(mode=0o700)
        place.symlink_to(temporary / "real")
    assert find_socket(folder).parent == folder.resolve()
    os.remove(place) if spoilt == "link" else place.chmod(0o700)
    if spoilt == "open":
        assert find_socket(folder).parent == place


@pytest.fixture
def left_over(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """The server of a parent that was killed: it runs, and nobody watches it."""
    (tmp_path / "logs").mkdir()
    server = EmbeddedValkey(tmp_path)
    server.start()
    assert server.process is not None
    yield server
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGCONT)
    server.stop()


def test_the_end_of_one_that_was_taken_over_is_seen(left_over: EmbeddedValkey, tmp_path: Path) -> None:
    heir = EmbeddedValkey(tmp_path)
    heir.start()
    assert heir.process is None, "taken over, not started twice"
    heir._client().set("kept", "1")
    assert not heir.has_ended()
    assert left_over.process is not None
    left_over.process.kill()
    left_over.process.wait()
    assert heir.has_ended()
    heir.start()
    try:
        assert not heir.has_ended()
        assert heir._client().get("kept") == b"1"
    finally:
        heir.stop()


def test_one_that_is_slow_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, left_over: EmbeddedValkey, tmp_path: Path
) -> None:
    """A second one on the same append-only file would spoil it."""
    heir = EmbeddedValkey(tmp_path)
    assert left_over.process is not None
    left_over.process.send_signal(signal.SIGSTOP)
    assert not heir.has_ended()
    with ThreadPoolExecutor(1) as pool:
        asked = threading.Event()
        client = heir._client
        monkeypatch.setattr(heir, "_client", lambda **options: asked.set() or client(**options))
        start = pool.submit(heir.start, seconds=WAIT_SECONDS)
        assert asked.wait(WAIT_SECONDS), "it listens, so it is asked"
        left_over.process.send_signal(signal.SIGCONT)
        start.result()
    assert heir.process is None
    assert left_over.process.poll() is None
