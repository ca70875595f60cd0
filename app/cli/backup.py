"""`darkroom backup` and `darkroom restore`: everything that `darkroom up` keeps in its data folder, in one file.

A service that runs is copied as it runs: first a snapshot of its Valkey, then the files, so that each picture that a
record of the snapshot names was there already. Of one that is stopped the Valkey is started for it.

Knows the data folder. Refuses a service whose jobs or pictures lie elsewhere: their own servers have their own ways.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

import redis

from app.cli.backup_file import SNAPSHOT, BackupError, BackupWriter, extract, state_of
from app.cli.data_folder import RESTORING, Places
from app.cli.embedded import EmbeddedValkey, NoServer
from app.cli.exits import OK, REFUSED, UNREACHABLE
from app.cli.private import keep_private, own_folder, private_folder
from app.cli.sockets import NOTE
from app.contract.common.environment import SettingsError
from app.contract.messages.input_id import input_id
from app.contract.objects.names import INPUTS
from app.contract.redis import clients, keys
from app.settings import settings_from_env

ENDS = (signal.SIGTERM, signal.SIGHUP)

LOAD_SECONDS = 600.0
"""For a Valkey to read its file: some gigabytes from a slow disk."""

PAUSE_SECONDS = 0.05

AOF = "appendonly.aof"
MANIFEST = f"file {AOF}.1.base.rdb seq 1 type b\nfile {AOF}.1.incr.aof seq 1 type i\n"
"""What Valkey's multi-part append-only file of one snapshot says of itself (valkey.io/topics/persistence)."""


class Busy(BackupError):
    """The same command may work later."""


def backup(file: Path, *, data: Path, overwrite: bool) -> int:
    """Write the data folder into `file`, readable for this user alone. Returns the exit code."""
    return _said("backup", lambda: _backup(file.absolute(), data.absolute(), overwrite=overwrite))


def restore(file: Path, *, data: Path) -> int:
    """Make a data folder of a backup. Returns the exit code."""
    return _said("restore", lambda: _restore(file.absolute(), data.absolute()))


def _said(command: str, work: Callable[[], str]) -> int:
    keep_private()
    try:
        with _ending_in_order():
            print(work())
    except (BackupError, NoServer, SettingsError) as error:
        print(f"darkroom {command}: {error}", file=sys.stderr)
        return UNREACHABLE if isinstance(error, Busy) else REFUSED
    except (redis.RedisError, OSError) as error:
        print(f"darkroom {command}: {_reason(error)}", file=sys.stderr)
        return REFUSED
    return OK


def _reason(error: Exception) -> str:
    """Python's own text of what the system says begins with a number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """What would end the process at once raises SystemExit: half a file or folder, and a server of ours, are removed.

    One that is ignored, as under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are its alone
        yield
        return
    ours = [number for number in ENDS if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, frame: FrameType | None) -> None:
        for each in ours:  # a second one would cut the removal short
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _backup(file: Path, data: Path, *, overwrite: bool) -> str:
    _require_own_state(data)
    if file.exists() and not overwrite:
        raise BackupError(f"{file} exists; --overwrite replaces it")
    if file.resolve().is_relative_to(data.resolve()):
        raise BackupError(f"{file} lies in the data folder itself; choose a place outside")
    aside = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _opened(aside, file) as sink, _valkey_of(data) as valkey:
            with BackupWriter(sink) as writer:
                with _snapshot(valkey) as taken:
                    writer.add(SNAPSHOT, taken)
                for name, path in state_of(data):
                    # What is deleted meanwhile is no longer meant.
                    with suppress(FileNotFoundError), path.open("rb") as source:
                        writer.add(name, source)
            sink.flush()
            os.fsync(sink.fileno())
        aside.replace(file)
    finally:
        # Where it could not be made, this may fail too, and is not what is to be told.
        with suppress(OSError):
            aside.unlink()
    return f"{file}: {len(writer.sums)} files, {writer.size / 1e6:.1f} MB. It holds keys: keep it as you keep them"


def _opened(aside: Path, file: Path) -> IO[bytes]:
    """What becomes `file`. Raises BackupError, which names that one."""
    try:
        return aside.open("xb")
    except OSError as error:
        raise BackupError(f"{file} cannot be written: {error.strerror}; name another file") from error


def _require_own_state(data: Path) -> None:
    """Raises BackupError if jobs or pictures lie elsewhere, or there is no data folder.

    The service's own word goes before the environment, which is that of a shell or of cron.
    """
    if not (data / "lock").is_file():
        raise BackupError(f"{data} is no data folder of `darkroom up`; name it with --data")
    places = Places.noted(data) or Places.of(settings_from_env(), data)
    if places.jobs == "elsewhere" or not (data / "valkey").is_dir():
        raise BackupError("the jobs lie in the Redis of REDIS_URL: back up that server by its own means")
    if places.pictures == "elsewhere":
        raise BackupError("the pictures lie in DARKROOM_STORAGE_URL: back up that store by its own means")


@contextmanager
def _valkey_of(data: Path) -> Iterator[EmbeddedValkey]:
    """The folder's server: the one that runs, else one that is started for this and holds off a service meanwhile.
    Raises Busy between the two."""
    valkey = EmbeddedValkey(data)
    with (data / "lock").open("r+b") as lock:
        if _locked(lock):
            private_folder(data / "logs")
            try:
                valkey.start(seconds=LOAD_SECONDS)
                yield valkey
            finally:
                valkey.stop()
            return
    try:
        valkey.require_own()
    except redis.RedisError as error:
        raise Busy(f"the service in {data} is starting or ending; try again when it has") from error
    yield valkey


def _locked(lock: IO[bytes]) -> bool:
    """Whether nobody else had it. It ends with the open file."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _snapshot(valkey: EmbeddedValkey) -> Iterator[IO[bytes]]:
    """What the server holds at this moment, as an open file whose name is gone. Raises Busy, BackupError."""
    with (valkey.folder / "lock").open("wb") as lock, clients.client(valkey.url, decode_responses=True) as client:
        if not _locked(lock):
            raise Busy("another backup takes its snapshot; try again when it has")
        _save(client, valkey)
        path = valkey.folder / client.config_get("dbfilename")["dbfilename"]
        taken = path.open("rb")
        path.unlink()
    with taken:
        yield taken


def _save(client: redis.Redis, valkey: EmbeddedValkey) -> None:
    def persistence() -> dict[str, Any]:
        return dict(client.info("persistence"))

    while persistence()["rdb_bgsave_in_progress"]:
        time.sleep(PAUSE_SECONDS)
    before = persistence()["rdb_saves"]
    # Behind a rewrite of the append-only file, if one is under way.
    client.bgsave(schedule=True)
    # It is counted when it begins.
    while (now := persistence())["rdb_saves"] == before or now["rdb_bgsave_in_progress"]:
        time.sleep(PAUSE_SECONDS)
    if now["rdb_last_bgsave_status"] != "ok":
        raise BackupError(f"Valkey could not write its snapshot; {valkey.log} says why")


def _restore(file: Path, data: Path) -> str:
    if not file.is_file():
        raise BackupError(f"there is no file {file}")
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise BackupError(f"{data} is not empty; name a new folder with --data, or move this one away")
    was_there = data.exists()
    try:
        own_folder(data)
    except OSError as error:
        raise BackupError(f"{data} cannot be made: {error.strerror}; name another folder with --data") from error
    aside = data / f"{RESTORING}{secrets.token_hex(8)}"
    try:
        # `darkroom up` waits for it: nobody starts on half a folder.
        with (data / "lock").open("xb") as lock:
            _locked(lock)
            private_folder(aside)
            description = extract(file, aside)
            _prove(aside)
            for part in sorted(aside.iterdir()):
                part.rename(data / part.name)
            aside.rmdir()
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        (data / "lock").unlink(missing_ok=True)
        if not was_there:
            with suppress(OSError):
                data.rmdir()
        raise
    return f"{data}: as it was at {description.made_at.isoformat()}. `darkroom up --data {data}` goes on with it"


def _prove(aside: Path) -> None:
    """Make Valkey's append-only file of the snapshot, have a Valkey read it, and ask it which pictures are wanted.

    Raises BackupError.
    """
    valkey = EmbeddedValkey(aside)
    parts = valkey.folder / "appendonlydir"
    private_folder(parts)
    private_folder(aside / "logs")
    (aside / SNAPSHOT).rename(parts / f"{AOF}.1.base.rdb")
    (parts / f"{AOF}.1.incr.aof").touch()
    (parts / f"{AOF}.manifest").write_text(MANIFEST)
    try:
        valkey.start(seconds=LOAD_SECONDS)
        _remove_unknown(aside / "pictures", valkey)
    except NoServer as error:
        words = valkey.log.read_text(errors="replace").strip().splitlines()[-1:] if valkey.log.exists() else []
        raise BackupError(f"Valkey does not read its snapshot: {' '.join(words) or error}") from error
    finally:
        valkey.stop()
    (valkey.folder / NOTE).unlink(missing_ok=True)
    shutil.rmtree(aside / "logs")


def _remove_unknown(pictures: Path, valkey: EmbeddedValkey) -> None:
    """What came after the snapshot: no record leads to it, so no retention would ever end it."""
    with clients.client(valkey.url) as client:
        for folder in (pictures / "images").glob("job_*"):
            if not client.exists(keys.JOB + folder.name, keys.OWED + folder.name):
                shutil.rmtree(folder)
        for file in (pictures / INPUTS).glob("*/*"):
            if not client.exists(keys.INPUT + input_id(tenant=file.parent.name, sha256=file.name)):
                file.unlink()
