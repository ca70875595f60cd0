"""`darkroom backup` and `darkroom restore` over data folders and real Valkeys: what comes back is what was there, and
what is no backup, or would be put over something, is refused and changes nothing."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import signal
import stat
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from app.cli import backup as commands
from app.cli import backup_file
from app.cli.backup import backup, restore
from app.cli.backup_file import FIRST, LAST, SNAPSHOT
from app.cli.data_folder import Places
from app.cli.embedded import EmbeddedValkey
from app.contract.messages.input_id import input_id
from app.contract.redis import keys
from tests.app.conftest import serve, settings_for

ARCHIVE = Path(__file__).parents[1] / "system" / "data_of_before.tar.gz"
"""tests/system/test_data_of_before.py says what is in it."""

Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], list[tuple[tarfile.TarInfo, bytes]]]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With a short name, for sockets; and the data folder of an earlier version in it, as `darkroom up` left it."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    with tempfile.TemporaryDirectory(prefix="dr-") as name:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(name, filter="data")
        yield Path(name)


@contextmanager
def valkey_of(data: Path) -> Iterator[redis.Redis]:
    valkey = EmbeddedValkey(data)
    (data / "logs").mkdir(exist_ok=True)
    valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        try:
            yield client
        finally:
            valkey.stop()


def everything(client: redis.Redis) -> dict[bytes, tuple[bytes, bool]]:
    """Every key with its value, and whether it ends by itself."""
    return {key: (client.dump(key), client.pexpiretime(key)) for key in client.scan_iter(count=1_000)}  # type: ignore[misc]


def files(data: Path) -> dict[str, bytes]:
    kept = [path for part in ("pictures", "profiles") for path in (data / part).rglob("*") if path.is_file()]
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in [*kept, data / "signing.key"]}


def test_a_stopped_service_comes_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, file, new = folder / "data", folder / "a.tar", folder / "new"
    (data / "pictures" / ".half.0123.tmp").write_bytes(b"half")
    assert backup(file, data=data, overwrite=False) == 0
    assert "8 files" in capsys.readouterr().out
    with valkey_of(data) as client:
        before = everything(client)
    assert not list((data / "valkey").glob("*.rdb")), "the snapshot is not left behind"
    assert restore(file, data=new) == 0
    (data / "pictures" / ".half.0123.tmp").unlink()
    assert files(new) == files(data)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [file, *new.rglob("*")]}
    assert modes == {0o600, 0o700}, "there are keys in it"
    with valkey_of(new) as client:
        assert everything(client) == before
        expected = json.loads((folder / "expected.json").read_text())
        assert_serves(new, expected)


def assert_serves(data: Path, expected: dict[str, Any]) -> None:
    """A gateway over the folder answers for the old jobs, shows their pictures, and knows who may do what."""
    settings = settings_for(EmbeddedValkey(data).url, data, retention_hours=876_000)
    for running in serve(settings):
        client, ours = running.client, {"Authorization": f"Bearer {expected['key']}"}
        job = client.get(f"/v1/jobs/{expected['succeeded']['id']}", headers=ours).json()
        assert job["status"] == "succeeded"
        for image in job["images"]:
            assert hashlib.sha256(client.get(image["url"]).content).hexdigest() == image["sha256"]
        assert client.get("/v1/jobs").status_code == 401
        reader = {"Authorization": f"Bearer {expected['read_key']}"}
        assert client.get("/v1/jobs", headers=reader).status_code == 200
        assert client.post("/v1/jobs", json={"prompt": "a star"}, headers=reader).status_code == 403


def test_a_service_that_runs_is_copied_as_it_runs(folder: Path) -> None:
    """With every write before it, and the service none the wiser."""
    data, file, new = folder / "data", folder / "a.tar", folder / "new"
    with (data / "lock").open("rb") as lock, valkey_of(data) as client:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client.set("written", "just before")
        assert backup(file, data=data, overwrite=False) == 0
        client.set("written", "afterwards")
        assert client.ping()
    assert restore(file, data=new) == 0
    with valkey_of(new) as client:
        assert client.get("written") == b"just before"


def test_pictures_that_came_after_the_snapshot_do_not_come_back(folder: Path) -> None:
    """No record leads to them: they would stay for ever."""
    data, file, new = folder / "data", folder / "a.tar", folder / "new"
    pictures = data / "pictures"
    jobs = {name: pictures / "images" / f"job_{name * 24}" for name in "0123"}
    came_in = {name: pictures / "inputs" / "ann" / (name * 64) for name in "45"}
    for path in [each / ("a" * 32) / "0.png" for each in jobs.values()] + list(came_in.values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")
    with valkey_of(data) as client:
        client.set(keys.JOB + jobs["0"].name, "a record")
        client.set(keys.OWED + jobs["1"].name, "what a webhook needs")
        client.set(keys.INPUT + input_id("ann", "4" * 64), "a record")
    before = files(data)
    assert backup(file, data=data, overwrite=False) == 0
    assert restore(file, data=new) == 0
    gone = {path.relative_to(data).as_posix() for path in (jobs["2"], jobs["3"], came_in["5"])}
    assert files(new) == {name: data for name, data in before.items() if not name.startswith(tuple(gone))}
    assert len(files(new)) == len(before) - 3


def interrupting(number: signal.Signals) -> None:
    """What `kill` does, and no more where nobody would notice it."""
    assert signal.getsignal(number) is not signal.SIG_DFL, "this process would end at once"
    signal.raise_signal(number)


@pytest.fixture
def deadly() -> Iterator[None]:
    """Signals as a terminal gives them to a command, also under nohup."""
    former = {number: signal.signal(number, signal.SIG_DFL) for number in commands.ENDS}
    yield
    assert {signal.getsignal(number) for number in commands.ENDS} == {signal.SIG_DFL}
    for number, handler in former.items():
        signal.signal(number, handler)


def test_a_restore_that_is_told_to_end_leaves_nothing(
    made: Path, deadly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half folder that a start would take for one, and no Valkey."""
    beside, started, start = set(made.parent.iterdir()), list[EmbeddedValkey](), EmbeddedValkey.start

    def start_and_end(valkey: EmbeddedValkey, **options: Any) -> None:
        start(valkey, **options)
        started.append(valkey)
        interrupting(signal.SIGHUP)

    monkeypatch.setattr(EmbeddedValkey, "start", start_and_end)
    with pytest.raises(SystemExit) as ended:
        restore(made, data=made.parent / "new")
    assert ended.value.code == 128 + signal.SIGHUP
    assert started[0].process is not None
    assert started[0].process.poll() is not None
    assert set(made.parent.iterdir()) == beside


def test_a_backup_that_is_told_to_end_leaves_nothing(
    folder: Path, deadly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, state_of = set(folder.iterdir()), backup_file.state_of

    def some(data: Path) -> Iterator[tuple[str, Path]]:
        yield next(state_of(data))
        assert list(folder.glob(".a.tar.*")), "with keys in it"
        interrupting(signal.SIGTERM)

    monkeypatch.setattr(commands, "state_of", some)
    with pytest.raises(SystemExit) as ended:
        backup(folder / "a.tar", data=folder / "data", overwrite=False)
    assert ended.value.code == 128 + signal.SIGTERM
    assert set(folder.iterdir()) == beside


def test_two_backups_at_once_do_not_take_each_others_snapshot(folder: Path) -> None:
    data, codes = folder / "data", list[int]()
    with (data / "lock").open("rb") as lock, valkey_of(data):
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (data / "valkey" / "lock").open("wb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert backup(folder / "a.tar", data=data, overwrite=False) == 3
        calls = [
            threading.Thread(target=lambda n=n: codes.append(backup(folder / f"{n}.tar", data=data, overwrite=False)))
            for n in range(3)
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
    assert set(codes) <= {0, 3}
    assert codes.count(0) == len(list(folder.glob("?.tar"))) >= 1
    for number, file in enumerate(folder.glob("?.tar")):
        assert restore(file, data=folder / f"new-{number}") == 0


def test_a_snapshot_that_cannot_be_written_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data" / "valkey" / "dump.rdb" / "in the way").mkdir(parents=True)
    assert backup(folder / "a.tar", data=folder / "data", overwrite=False) == 2
    assert "could not write its snapshot" in capsys.readouterr().err
    assert not list(folder.glob("*.tar"))


def test_what_cannot_be_backed_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = folder / "data", folder / "a.tar"

    def refused(reason: str, *, code: int = 2, **options: Any) -> None:
        assert backup(**({"file": file, "data": data, "overwrite": False} | options)) == code
        assert reason in capsys.readouterr().err
        assert not file.exists()

    refused("no data folder", data=folder / "nowhere")
    nowhere = folder / "nowhere" / "a.tar"
    refused(f"{nowhere} cannot be written: No such file or directory; name another file", file=nowhere)
    (folder / "notes").touch()
    inside = folder / "notes" / "a.tar"
    refused(f"{inside} cannot be written: Not a directory; name another file", file=inside)
    refused("lies in the data folder itself", file=data / "pictures" / "a.tar")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    refused("back up that server by its own means")
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.setenv("DARKROOM_STORAGE_URL", "s3://bucket/pictures")
    refused("back up that store by its own means")
    monkeypatch.delenv("DARKROOM_STORAGE_URL")
    Places(jobs="elsewhere", pictures="own").note(data)
    refused("back up that server by its own means")
    Places(jobs="own", pictures="elsewhere").note(data)
    refused("back up that store by its own means")
    # A shell's own, that the service does not have.
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    Places(jobs="own", pictures="own").note(data)
    with (data / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused("is starting or ending", code=3)
    file.write_bytes(b"mine")
    assert backup(file, data=data, overwrite=False) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert file.read_bytes() == b"mine"
    assert backup(file, data=data, overwrite=True) == 0
    assert not list(folder.glob(".*"))


def test_a_folder_that_cannot_be_read_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Root may read every folder: here is something else in its place."""
    (folder / "data" / "profiles").rename(folder / "away")
    (folder / "data" / "profiles").touch()
    assert backup(folder / "a.tar", data=folder / "data", overwrite=False) == 2
    assert "profiles cannot be read" in capsys.readouterr().err
    assert not list(folder.glob("*.tar"))


@pytest.fixture
def made(folder: Path) -> Path:
    assert backup(folder / "a.tar", data=folder / "data", overwrite=False) == 0
    return folder / "a.tar"


def changed(file: Path, change: Change) -> None:
    """Write the archive anew with other entries."""
    with tarfile.open(file) as archive:
        entries = [(entry, archive.extractfile(entry).read()) for entry in archive]  # type: ignore[union-attr]
    with tarfile.open(file, "w") as archive:
        for entry, data in change(entries):
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def described(**fields: Any) -> Change:
    def change(entries: list[tuple[tarfile.TarInfo, bytes]]) -> list[tuple[tarfile.TarInfo, bytes]]:
        (first, text), *rest = entries
        return [(first, json.dumps(json.loads(text) | fields).encode()), *rest]

    return change


def spoilt(name: str, new: Callable[[bytes], bytes]) -> Change:
    return lambda entries: [(each, new(data) if each.name == name else data) for each, data in entries]


def with_sums(change: Change) -> Change:
    """And the last entry says that it has to be so."""

    def both(entries: list[tuple[tarfile.TarInfo, bytes]]) -> list[tuple[tarfile.TarInfo, bytes]]:
        *found, (last, _) = change(entries)
        sums = {each.name: hashlib.sha256(data).hexdigest() for each, data in found[1:]}
        return [*found, (last, json.dumps(sums).encode())]

    return both


REFUSED: dict[str, tuple[Change, str]] = {
    "a bit of a picture": (spoilt("signing.key", lambda data: b"x" + data[1:]), "is damaged"),
    "a file is missing": (lambda entries: [each for each in entries if each[0].name != "workers"], "is damaged"),
    "a file more": (lambda entries: [*entries[:-1], entry("pictures/more.png"), entries[-1]], "is damaged"),
    "cut short": (lambda entries: entries[:-1], "is cut short"),
    "twice": (lambda entries: [*entries[:2], *entries[1:]], "is in it twice"),
    "somebody else's": (lambda entries: entries[1:], "is no backup of darkroom's"),
    "no snapshot": (
        with_sums(lambda entries: [each for each in entries if each[0].name != SNAPSHOT]),
        "no snapshot of jobs",
    ),
    "a snapshot that is none": (with_sums(spoilt(SNAPSHOT, lambda data: b"REDIS9999" + data[9:])), "does not read"),
    "above": (with_sums(lambda e: [*e[:-1], entry("pictures/../../evil"), e[-1]]), "does not belong into one"),
    "from the root": (with_sums(lambda e: [*e[:-1], entry("/pictures/evil"), e[-1]]), "does not belong into one"),
    "another place": (with_sums(lambda e: [*e[:-1], entry("logs/evil"), e[-1]]), "does not belong into one"),
    "a link": (
        with_sums(lambda e: [*e[:-1], entry("pictures/evil", tarfile.SYMTYPE, "/etc/passwd"), e[-1]]),
        "does not belong into one",
    ),
    "a newer version": (described(darkroom="99.0.0"), "made by darkroom 99.0.0"),
    "a newer form of jobs": (described(record_version=10_000), "upgrade, then restore it"),
    "a newer form of the file": (described(format=2), "upgrade, then restore it"),
    "no description": (spoilt(FIRST, lambda data: b"{}"), "no backup of darkroom's, or damaged"),
    "no hashes": (spoilt(LAST, lambda data: b"{"), "no backup of darkroom's, or damaged"),
}


@pytest.fixture
def no_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a refusal has to come before a server is started, none is."""
    monkeypatch.setattr(commands, "_prove", lambda aside: pytest.fail("it went on"))


@pytest.mark.parametrize("case", [case for case in REFUSED if case != "a snapshot that is none"])
def test_what_is_no_whole_backup_is_refused(
    case: str, small: Path, no_valkey: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(case, small, capsys)


def test_a_snapshot_that_valkey_does_not_read_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused("a snapshot that is none", made, capsys)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """In the form of a backup, of few bytes."""
    parts = {SNAPSHOT: b"REDIS0011", "signing.key": b"k" * 64, "workers": b"", "pictures/images/a/0.png": b"picture"}
    with (tmp_path / "a.tar").open("wb") as sink, backup_file.BackupWriter(sink) as writer:
        for name, data in parts.items():
            (tmp_path / "part").write_bytes(data)
            with (tmp_path / "part").open("rb") as source:
                writer.add(name, source)
    (tmp_path / "part").unlink()
    return tmp_path / "a.tar"


def refused(case: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, reason = REFUSED[case]
    changed(file, change)
    beside = set(file.parent.iterdir())
    assert restore(file, data=file.parent / "new") == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert set(file.parent.iterdir()) == beside, "nothing is left behind"


def test_as_many_files_as_were_written_are_read(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their hashes take more than what a text may."""
    monkeypatch.setattr(backup_file, "LONGEST_TEXT", 200)
    assert len(json.dumps(hashes_in(small))) > backup_file.LONGEST_TEXT
    backup_file.extract(small, small.parent)
    assert (small.parent / "signing.key").is_file()


def hashes_in(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        return dict(json.load(archive.extractfile(LAST)))  # type: ignore[arg-type]


def test_what_is_no_archive_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.tar"
    for data in (b"", b"a picture, or so" * 100):
        file.write_bytes(data)
        assert restore(file, data=tmp_path / "new") == 2
        assert "is no backup of darkroom's" in capsys.readouterr().err
    assert restore(tmp_path / "nowhere.tar", data=tmp_path / "new") == 2
    assert not (tmp_path / "new").exists()


def test_nothing_is_put_over_something(small: Path, no_valkey: None, capsys: pytest.CaptureFixture[str]) -> None:
    data = small.parent / "new"
    data.mkdir()
    (data / "lock").touch()
    assert restore(small, data=data) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in data.iterdir()] == ["lock"]


def test_a_folder_that_cannot_be_made_is_told(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = small / "new"
    assert restore(small, data=data) == 2
    assert f"{data} cannot be made: Not a directory; name another folder with --data" in capsys.readouterr().err


def test_a_folder_that_was_there_stays_where_a_restore_failed(
    small: Path, no_valkey: None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = small.parent / "new"
    data.mkdir()
    changed(small, REFUSED["cut short"][0])
    assert restore(small, data=data) == 2
    assert list(data.iterdir()) == []
