"""Bytes under a key, against a real disk and a real S3 server, on good days and bad ones."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, cycle, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pytest

from app.contract.objects.folder import Folder
from app.contract.objects.names import CELL_MARK, image_key, job_prefix, snapshot_key, thumbnail_key, token_prefix
from app.contract.objects.store import PROBES, StoreOptions, open_store, probe, sweep_probes
from app.contract.objects.thumbnails import FRESH_SECONDS, KEPT_SECONDS, put_thumbnail, sweep_thumbnails
from tests.waiting import WAIT_SECONDS
from worker.errors import Abandoned, StorageDenied, StorageError, StorageFull, StorageUnavailable
from worker.storage import LONGEST_PAUSE, ObjectStore

if TYPE_CHECKING:
    from tests.storage_servers import S3Server

JOB, OTHER_JOB = "job_" + "1a" * 12, "job_" + "2b" * 12
TOKEN, OTHER_TOKEN = "0f" * 16, "e1" * 16
KEY = image_key(JOB, TOKEN, 0, "png")
SNAPSHOT = snapshot_key(JOB, TOKEN, 0)
DATA = os.urandom(100_000)


class Clock:
    """Stands still except while somebody pauses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class StoreOfFaults(Folder):
    """A folder whose first puts raise what the script says."""

    def __init__(self, root: Path, script: Iterator[Exception | None]) -> None:
        super().__init__(root)
        self.script = script

    def put(self, key: str, data: bytes, content_type: str) -> None:
        if (error := next(self.script)) is not None:
            raise error
        super().put(key, data, content_type)


def scripted(root: Path, script: Iterator[Exception | None], clock: Clock) -> ObjectStore:
    return ObjectStore(StoreOfFaults(root, script), clock=lambda: clock.now, pause=clock.pause, chance=lambda: 1.0)


def files_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def timed(url: str, clock: Clock, options: StoreOptions | None = None) -> ObjectStore:
    """A real store whose pauses take no time and are noted."""
    return ObjectStore(open_store(url, options), clock=lambda: clock.now, pause=clock.pause, chance=lambda: 1.0)


def local(root: Path) -> ObjectStore:
    return ObjectStore.from_url(root.as_uri())


def test_put_says_what_was_stored_and_leaves_nothing_else(tmp_path: Path):
    stored = local(tmp_path).put(KEY, DATA, "image/png")
    assert (stored.key, stored.bytes, stored.content_type) == (KEY, len(DATA), "image/png")
    assert stored.sha256 == hashlib.sha256((tmp_path / KEY).read_bytes()).hexdigest()
    assert files_below(tmp_path) == {KEY}


def test_files_and_folders_are_private_whatever_the_umask(tmp_path: Path):
    root = tmp_path / "store"
    before = os.umask(0)
    try:
        local(root).put(KEY, DATA, "image/png")
    finally:
        os.umask(before)
    for path in [root, *root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_reader_never_sees_half_a_picture(tmp_path: Path):
    store, versions = local(tmp_path), [bytes([n]) * 300_000 for n in range(8)]
    store.put(KEY, versions[0], "image/png")
    read_enough = threading.Event()

    def write() -> None:
        for version in cycle(versions):
            store.put(KEY, version, "image/png")
            if read_enough.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    seen = Counter[int]()
    try:
        while writer.is_alive() and (len(seen) < 2 or seen.total() < 100):
            data = (tmp_path / KEY).read_bytes()
            assert data in versions
            seen[data[0]] += 1
    finally:
        read_enough.set()
        writer.join()
    assert files_below(tmp_path) == {KEY}


@pytest.mark.parametrize(
    "key",
    [
        "",
        "x",
        "../" + KEY,
        KEY + "/..",
        KEY.replace("images/", "images/../images/"),
        "/" + KEY,
        KEY.replace("png", "exe"),
        KEY.replace("0.png", "00.png"),
        KEY.replace("0.png", "1000.png"),
        KEY.replace("0.png", "-1.png"),
        KEY + "\n",
        KEY + "\0",
        KEY.upper(),
        KEY.replace("0.png", "\u0660.png"),
    ],
)
def test_only_image_keys_are_written(tmp_path: Path, key: str):
    with pytest.raises(ValueError, match="not a picture's key"):
        local(tmp_path / "a" / "store").put(key, DATA, "image/png")
    assert files_below(tmp_path) == set()


def test_a_transient_fault_is_retried_with_growing_pauses(tmp_path: Path):
    clock = Clock()
    faults = [OSError(5, "input/output error")] * 7
    stored = scripted(tmp_path, iter([*faults, None]), clock).put(KEY, DATA, "image/png")
    assert stored.bytes == len(DATA)
    assert clock.pauses == [0.1, 0.2, 0.4, 0.8, 1.6, LONGEST_PAUSE, LONGEST_PAUSE]


@pytest.mark.parametrize(
    ("error", "expected", "slug"),
    [
        (OSError(5, "input/output error"), StorageUnavailable, "storage-unavailable"),
        (OSError(28, "no space left on device"), StorageFull, "storage-full"),
    ],
)
def test_the_deadline_ends_the_retries(tmp_path: Path, error: OSError, expected: type[StorageError], slug: str):
    clock = Clock()
    with pytest.raises(expected) as failed:
        scripted(tmp_path, (error for _ in count()), clock).put(KEY, DATA, "image/png", deadline=30)
    assert failed.value.slug == slug
    assert 30 - LONGEST_PAUSE < clock.now <= 30


def test_space_that_comes_back_saves_the_picture(tmp_path: Path):
    store = scripted(tmp_path, iter([OSError(28, "no space left on device"), None]), Clock())
    assert store.put(KEY, DATA, "image/png").bytes == len(DATA)


def test_a_lost_lease_stops_the_retries(tmp_path: Path):
    clock = Clock()
    store = scripted(tmp_path, (OSError(5, "input/output error") for _ in count()), clock)
    with pytest.raises(Abandoned, match="3 failed tries"):
        store.put(KEY, DATA, "image/png", keep_trying=lambda: len(clock.pauses) < 3)
    assert len(clock.pauses) == 3


def test_a_lost_lease_stops_the_first_try_too(tmp_path: Path):
    with pytest.raises(Abandoned):
        local(tmp_path).put(KEY, DATA, "image/png", keep_trying=lambda: False)
    assert files_below(tmp_path) == set()


class ReadsLate(Folder):
    """A folder whose first reads raise what the script says."""

    def __init__(self, root: Path, script: Iterator[Exception | None]) -> None:
        super().__init__(root)
        self.script = script

    def read(self, key: str) -> bytes:
        if (error := next(self.script)) is not None:
            raise error
        return super().read(key)


def reading(root: Path, script: Iterator[Exception | None], clock: Clock) -> ObjectStore:
    local(root).put_snapshot(SNAPSHOT, DATA, deadline=0)
    return ObjectStore(ReadsLate(root, script), clock=lambda: clock.now, pause=clock.pause, chance=lambda: 1.0)


def test_a_snapshot_is_read_as_soon_as_the_store_answers_again(tmp_path: Path):
    clock = Clock()
    store = reading(tmp_path, iter([ConnectionResetError(), TimeoutError(), None]), clock)
    assert store.get_snapshot(SNAPSHOT, deadline=3.0) == DATA
    assert len(clock.pauses) == 2


def test_a_snapshot_that_does_not_come_in_time_or_is_gone_is_none(tmp_path: Path):
    clock = Clock()
    assert reading(tmp_path, repeat(TimeoutError()), clock).get_snapshot(SNAPSHOT, deadline=3.0) is None
    assert len(clock.pauses) > 2
    assert clock.now <= 3.0
    (tmp_path / SNAPSHOT).unlink()
    assert local(tmp_path).get_snapshot(SNAPSHOT, deadline=0) is None


def test_a_job_that_is_stopped_waits_for_no_snapshot(tmp_path: Path):
    clock = Clock()
    store = reading(tmp_path, repeat(TimeoutError()), clock)
    with pytest.raises(Abandoned):
        store.get_snapshot(SNAPSHOT, deadline=3.0, keep_trying=lambda: len(clock.pauses) < 1)


def test_a_programming_error_is_not_retried(tmp_path: Path):
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        scripted(tmp_path, iter([ZeroDivisionError()]), clock).put(KEY, DATA, "image/png")
    assert clock.pauses == []


def test_a_locked_folder_is_denied_at_once(locked_folder: Path):
    clock = Clock()
    store = timed(locked_folder.as_uri(), clock)
    with pytest.raises(StorageDenied, match=r"permission denied.*writable folder") as refused:
        store.put(KEY, DATA, "image/png")
    assert refused.value.slug == "storage-denied"
    with pytest.raises(StorageDenied, match="writable folder"):
        store.check()
    assert clock.pauses == []


def test_a_path_under_a_file_is_denied(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    for bad in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StorageDenied, match="make it a writable folder"):
            local(bad)


def test_a_full_disk_is_named_and_nothing_half_written_stays(small_disk: Path):
    store = local(small_disk)
    store.put(KEY, DATA, "image/png")
    with pytest.raises(StorageFull, match=r"no space left on device.*free some space"):
        store.put(image_key(JOB, TOKEN, 1, "png"), DATA, "image/png", deadline=0.3)
    assert files_below(small_disk) == {KEY}
    assert store.delete_prefix(job_prefix(JOB)) == 1
    store.put(image_key(JOB, TOKEN, 1, "png"), DATA, "image/png")


def test_a_file_that_may_not_grow_counts_as_full(tmp_path: Path, file_size_limit: int):
    store = local(tmp_path)
    with pytest.raises(StorageFull):
        store.put(KEY, b"x" * (file_size_limit + 1), "image/png", deadline=0)
    assert files_below(tmp_path) == set()
    store.put(KEY, b"x" * file_size_limit, "image/png")


def test_a_link_in_the_store_is_never_written_through(tmp_path: Path):
    outside, root = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    store = local(root)
    (root / "images").mkdir()
    (root / "images" / JOB).symlink_to(outside)
    with pytest.raises(StorageDenied):
        store.put(KEY, DATA, "image/png")
    assert files_below(outside) == set()


def test_a_link_under_the_final_name_is_replaced_and_its_target_untouched(tmp_path: Path):
    store = local(tmp_path / "store")
    store.put(KEY, b"old", "image/png")
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    path = tmp_path / "store" / KEY
    path.unlink()
    path.symlink_to(target)
    store.put(KEY, DATA, "image/png")
    assert target.read_bytes() == b"mine"
    assert not path.is_symlink()


def fill(store: ObjectStore) -> None:
    for job, token in ((JOB, TOKEN), (JOB, OTHER_TOKEN), (OTHER_JOB, TOKEN)):
        for index in range(2):
            store.put(image_key(job, token, index, "webp"), b"picture", "image/webp")


def kept_keys(store: ObjectStore) -> set[str]:
    keys = {
        image_key(job, token, index, "webp")
        for job in (JOB, OTHER_JOB)
        for token in (TOKEN, OTHER_TOKEN)
        for index in range(2)
    }
    return {key for key in keys if _exists(store, key)}


def _exists(store: ObjectStore, key: str) -> bool:
    try:
        store.place.read(key)
    except FileNotFoundError:
        return False
    return True


@pytest.fixture(params=["file", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        store = ObjectStore.from_url(server.url, server.options)
        store.delete_prefix(job_prefix(JOB))
        store.delete_prefix(job_prefix(OTHER_JOB))
        return store
    return local(tmp_path) if request.param == "file" else ObjectStore.from_url("memory://")


def test_deleting_an_attempt_leaves_its_neighbours(any_store: ObjectStore):
    fill(any_store)
    assert any_store.delete_prefix(token_prefix(JOB, TOKEN)) == 2
    assert len(kept_keys(any_store)) == 4
    assert any_store.delete_prefix(token_prefix(JOB, TOKEN)) == 0
    assert any_store.delete_prefix(job_prefix(JOB)) == 2
    assert kept_keys(any_store) == {image_key(OTHER_JOB, TOKEN, index, "webp") for index in range(2)}


def test_what_is_created_is_not_written_over(any_store: ObjectStore):
    place = any_store.place
    place.delete(CELL_MARK)
    assert place.create(CELL_MARK, b"first", "application/json")
    assert not place.create(CELL_MARK, b"second", "application/json")
    assert place.read(CELL_MARK) == b"first"
    place.delete(CELL_MARK)
    assert place.create(CELL_MARK, b"third", "application/json"), "nothing half-written is in the way"


def test_a_file_system_without_hard_links_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    place = local(tmp_path).place
    assert place.create(CELL_MARK, b"first", "application/json")
    assert not place.create(CELL_MARK, b"second", "application/json")
    assert place.read(CELL_MARK) == b"first"
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [CELL_MARK]


def test_what_is_put_can_be_read_and_put_again(any_store: ObjectStore):
    any_store.put(KEY, b"first", "image/png")
    any_store.put(KEY, DATA, "image/png")
    assert any_store.place.read(KEY) == DATA


def test_a_healthy_store_passes_its_check_and_keeps_no_trace(any_store: ObjectStore):
    any_store.check()
    any_store.check()
    assert any_store.place.delete_prefix("probe/") == 0


def test_the_probe_of_a_killed_process_does_not_stay(any_store: ObjectStore):
    """Half a day later its folder is emptied; the probes of others that are under way are left alone."""
    left = f"{PROBES}/05/{'0' * 32}/probe"
    any_store.place.put(left, b"left", "application/octet-stream")
    for hour in (5, 16):
        probe(any_store.place, clock=lambda hour=hour: hour * 3600.0)  # type: ignore[misc]
        assert sweep_probes(any_store.place, clock=lambda hour=hour: hour * 3600.0) == 0  # type: ignore[misc]
    assert any_store.place.read(left) == b"left"
    assert sweep_probes(any_store.place, clock=lambda: 17 * 3600.0) == 1
    assert any_store.place.delete_prefix("probe/") == 0


def test_many_checks_at_once_do_not_disturb_each_other(tmp_path: Path):
    stores = [local(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(len(stores)) as pool:
        finished = list(pool.map(lambda store: [store.check() for _ in range(50)], stores))
    assert len(finished) == len(stores)
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize("prefix", ["", "/", "images", "images/", "probe/", f"images/{JOB}", f"images/{JOB}/../", "."])
def test_only_a_job_or_an_attempt_can_be_deleted(tmp_path: Path, prefix: str):
    store = local(tmp_path)
    fill(store)
    with pytest.raises(ValueError, match="not a prefix"):
        store.delete_prefix(prefix)
    assert len(files_below(tmp_path)) == 6


def test_deleting_takes_leftovers_of_a_killed_writer_and_no_link_target(tmp_path: Path):
    root, outside = tmp_path / "store", tmp_path / "outside"
    store = local(root)
    store.put(KEY, DATA, "image/png")
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (root / KEY).with_name(".1.png.0123456789abcdef.tmp").write_bytes(b"half")
    (root / KEY).with_name("link").symlink_to(outside)
    assert store.delete_prefix(job_prefix(JOB)) == 3
    assert files_below(root) == set()
    assert (outside / "kept").exists()


def test_an_attempt_is_stored_while_another_of_the_same_job_is_swept(tmp_path: Path):
    store, stop = local(tmp_path), threading.Event()

    def leave_and_sweep() -> None:
        while not stop.is_set():
            store.put(image_key(JOB, OTHER_TOKEN, 0, "png"), b"dead", "image/png")
            assert store.delete_prefix(token_prefix(JOB, OTHER_TOKEN)) == 1

    sweeper = threading.Thread(target=leave_and_sweep)
    sweeper.start()
    try:
        for _ in range(100):
            store.put(KEY, b"alive", "image/png")
            assert store.place.read(KEY) == b"alive"
            assert store.delete_prefix(token_prefix(JOB, TOKEN)) == 1
    finally:
        stop.set()
        sweeper.join()
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/var/pictures", "begins with"),
        ("ftp://host/x", "begins with"),
        ("http://host/x", "begins with"),
        ("file://var/pictures", "three slashes"),
        ("file:///", "not / itself"),
        ("file:relative", "three slashes"),
        ("s3://", "names a bucket"),
        ("s3://key:secret@bucket", "no credentials"),
        ("s3://bucket?region=x", "no credentials"),
    ],
)
def test_urls_of_another_form_are_refused_with_the_remedy(url: str, message: str):
    with pytest.raises(ValueError, match=message):
        open_store(url)


def test_options_of_s3_are_refused_elsewhere_and_never_printed():
    options = StoreOptions(secret_access_key="canary", access_key_id="canary")
    assert "canary" not in repr(options)
    with pytest.raises(ValueError, match="options of s3"):
        open_store("gs://bucket/prefix", options)


def test_a_folder_url_is_decoded(tmp_path: Path):
    local(tmp_path / "with space é").put(KEY, DATA, "image/png")
    assert (tmp_path / "with space é" / KEY).read_bytes() == DATA


def unreachable(endpoint: str, clock: Clock, *, timeout: float = WAIT_SECONDS) -> ObjectStore:
    options = StoreOptions(
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="a",
        secret_access_key="b",
        request_timeout=timeout,
    )
    return timed("s3://bucket/prefix", clock, options)


def test_a_store_that_refuses_connections_is_unavailable_after_the_deadline(nobody_listens: str):
    clock = Clock()
    with pytest.raises(StorageUnavailable, match=r"s3://bucket/prefix does not answer.*can be reached") as failed:
        unreachable(nobody_listens, clock).put(KEY, DATA, "image/png", deadline=0.5)
    assert clock.pauses == [0.1, 0.2]
    assert TOKEN not in failed.value.detail


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "RequestTimeout", StorageUnavailable),
        (404, "NoSuchUpload", StorageUnavailable),
        (408, "", StorageUnavailable),
        (429, "TooManyRequests", StorageUnavailable),
        (500, "InternalError", StorageUnavailable),
        (503, "SlowDown", StorageUnavailable),
        (301, "PermanentRedirect", StorageDenied),
        (400, "AuthorizationHeaderMalformed", StorageDenied),
        (401, "Unauthorized", StorageDenied),
        (403, "RequestTimeTooSkewed", StorageDenied),
    ],
)
def test_which_answers_are_final(answering: Answering, status: int, code: str, expected: type[StorageError]):
    answering.status, answering.code = status, code
    with pytest.raises(expected) as failed:
        unreachable(answering.endpoint, Clock()).put(KEY, DATA, "image/png", deadline=0.5)
    assert type(failed.value) is expected
    assert answering.asked == (3 if expected is StorageUnavailable else 1)
    assert TOKEN not in failed.value.detail


class Answering:
    """An S3 server of one answer."""

    def __init__(self) -> None:
        self.status, self.code, self.asked, self.endpoint = 200, "", 0, ""


@pytest.fixture
def answering() -> Iterator[Answering]:
    script = Answering()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            script.asked += 1
            self.rfile.read(int(self.headers["content-length"]))
            body = f"<Error><Code>{script.code}</Code></Error>".encode()
            self.send_response(script.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        script.endpoint = f"http://127.0.0.1:{server.server_port}"
        yield script
        server.shutdown()


@pytest.fixture
def accepts_and_says_nothing() -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def test_a_store_that_never_answers_is_unavailable_after_one_request(accepts_and_says_nothing: str):
    clock = Clock()
    with pytest.raises(StorageUnavailable):
        unreachable(accepts_and_says_nothing, clock, timeout=0.5).put(KEY, DATA, "image/png", deadline=0)
    assert clock.pauses == []


@pytest.mark.s3
def test_s3_stores_bytes_with_their_type_and_a_file_name(s3_server: S3Server):
    store = ObjectStore.from_url(s3_server.url, s3_server.options)
    store.put(KEY, DATA, "image/png")
    answer = obstore.get(store.place.store, KEY)  # type: ignore[union-attr]
    assert bytes(answer.bytes()) == DATA
    assert answer.attributes["Content-Type"] == "image/png"
    assert answer.attributes["Content-Disposition"] == f'inline; filename="{JOB}-0.png"'


@pytest.mark.s3
def test_s3_takes_its_credentials_from_the_usual_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch):
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    ObjectStore.from_url(s3_server.url).check()


@pytest.mark.s3
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"access_key_id": "unknown"}, "InvalidAccessKeyId"),
        ({"access_key_id": "AKIADARKROOMREADER", "secret_access_key": "may read and list, not write"}, "AccessDenied"),
    ],
)
def test_s3_with_wrong_credentials_is_denied_at_once(s3_server: S3Server, changes: dict[str, str], reason: str):
    clock = Clock()
    store = timed(s3_server.url, clock, replace(s3_server.options, **changes))
    calls: list[Callable[[], object]] = [lambda: store.put(KEY, DATA, "image/png"), store.check]
    for call in calls:
        with pytest.raises(StorageDenied, match=rf"refuses this client \({reason}\): check access key") as refused:
            call()
        assert "\n" not in refused.value.detail
        assert TOKEN not in refused.value.detail
    assert clock.pauses == []


@pytest.mark.s3
def test_s3_without_the_bucket_is_denied_at_once(s3_server: S3Server):
    store = ObjectStore.from_url("s3://no-such-bucket/prefix", s3_server.options)
    for call in (lambda: store.put(KEY, DATA, "image/png"), store.check):
        with pytest.raises(StorageDenied, match="s3://no-such-bucket/prefix does not exist: create the bucket"):
            call()


@pytest.mark.s3
def test_s3_that_dies_and_comes_back_gets_the_picture(s3_server_killed: S3Server):
    store = ObjectStore.from_url(s3_server_killed.url, s3_server_killed.options)
    tries: list[float] = []
    failed_twice = threading.Event()

    def keep_trying() -> bool:
        tries.append(time.monotonic())
        if len(tries) > 2:
            failed_twice.set()
        return True

    def revive() -> None:
        if failed_twice.wait(WAIT_SECONDS):
            s3_server_killed.start()

    helper = threading.Thread(target=revive)
    helper.start()
    try:
        stored = store.put(KEY, DATA, "image/png", deadline=WAIT_SECONDS, keep_trying=keep_trying)
    finally:
        helper.join()
    assert len(tries) > 2
    assert stored.sha256 == hashlib.sha256(store.place.read(KEY)).hexdigest()


@pytest.mark.s3
def test_s3_that_stays_dead_is_unavailable(s3_server_killed: S3Server):
    store = ObjectStore.from_url(s3_server_killed.url, s3_server_killed.options)
    with pytest.raises(StorageUnavailable, match="does not answer"):
        store.put(KEY, DATA, "image/png", deadline=0.5)
    with pytest.raises(StorageUnavailable):
        store.check()
    with pytest.raises(StorageUnavailable):
        store.delete_prefix(job_prefix(JOB))


def test_a_thumbnail_is_written_once_and_goes_when_nobody_names_it(any_store: ObjectStore) -> None:
    """Each start wrote all of them again, and those of models that were gone stayed for ever."""
    place, data = any_store.place, b"a small picture"
    kept, gone = any_store.put_thumbnail(data), any_store.put_thumbnail(b"another")
    now = time.time()
    assert not put_thumbnail(place, kept, data), "it is there"
    assert put_thumbnail(place, kept, data, clock=lambda: now + 2 * FRESH_SECONDS), (
        "it is old, and not to be removed now"
    )
    assert sweep_thumbnails(place, [kept]) == 0, "a worker may be about to announce it"
    assert sweep_thumbnails(place, [kept], clock=lambda: now + KEPT_SECONDS + 60) == 1
    assert place.read(thumbnail_key(kept)) == data
    assert place.written_at(thumbnail_key(gone)) is None
