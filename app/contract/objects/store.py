"""Where pictures lie: how an object key is spelled, and the folder or bucket behind a storage URL.

Both rooms put and read through here, so that a key, a file mode and the meaning of a storage fault exist once.
Refuses to know jobs, Redis and HTTP, and never retries: whoever calls decides how long to hope.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import SplitResult, unquote, urlsplit

from app.contract.objects.faults import first_line

if TYPE_CHECKING:
    from obstore.store import ObjectStore as RemoteStore

CONTENT_TYPES: Mapping[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Output format, as a job names it, to media type."""

EXTENSIONS: Mapping[str, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
SHEET = "-previews"
"""What a sheet's name has more than its picture's."""

_FORMAT_OF_EXTENSION = {extension: name for name, extension in EXTENSIONS.items()}
_PREFIX = re.compile(r"images/job_[0-9a-z]{24}/([0-9a-f]{32}/)?", re.ASCII)
_KEY = re.compile(r"images/(job_[0-9a-z]{24})/([0-9a-f]{32})/(0|[1-9][0-9]{0,2})(-previews)?\.(png|jpg|webp)", re.ASCII)
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)

PROBES = "probe"
"""Where a store is tried out."""

SCHEMES = ("file", "s3", "gs", "az", "memory")
_READ = os.O_RDONLY | os.O_CLOEXEC
_NOT_OURS = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENOENT)


@dataclass(frozen=True, slots=True)
class ImageKey:
    """The parts of the object key of one picture, or of its sheet of previews."""

    job_id: str
    token: str
    index: int
    output_format: str
    is_sheet: bool = False
    """The picture's previews, not the picture."""

    @property
    def file_name(self) -> str:
        """What a browser should call the download. Carries the job and no token."""
        return f"{self.job_id}-{self.index}{SHEET if self.is_sheet else ''}.{EXTENSIONS[self.output_format]}"


def image_key(job_id: str, token: str, index: int, output_format: str) -> str:
    """The key of picture `index` (0 to 999) of one attempt. ValueError for any part of another form."""
    if output_format not in EXTENSIONS:
        raise ValueError(f"unknown output format {output_format!r}; it is one of {', '.join(EXTENSIONS)}")
    parse_key(key := f"images/{job_id}/{token}/{index}.{EXTENSIONS[output_format]}")
    return key


def sheet_key(job_id: str, token: str, index: int) -> str:
    """The key of the sheet of previews beside picture `index`, a JPEG. ValueError for any part of another form."""
    parse_key(key := f"images/{job_id}/{token}/{index}{SHEET}.{EXTENSIONS['jpeg']}")
    return key


def parse_key(key: str) -> ImageKey:
    """The parts of a key that `image_key` or `sheet_key` made. ValueError for any other string, traversals included."""
    if (found := _KEY.fullmatch(key)) is None:
        raise ValueError("not a picture's key: images/<job id>/<token>/<index>.<png, jpg or webp>")
    return ImageKey(found[1], found[2], int(found[3]), _FORMAT_OF_EXTENSION[found[5]], found[4] is not None)


def job_prefix(job_id: str) -> str:
    """What every key of a job begins with, of all its attempts."""
    return require_prefix(f"images/{job_id}/")


def token_prefix(job_id: str, token: str) -> str:
    """What every key of one attempt begins with. A dead attempt's leftovers lie here and nowhere else."""
    return require_prefix(f"images/{job_id}/{token}/")


def require_prefix(prefix: str) -> str:
    """`prefix` if it is a job's or an attempt's, so that nobody can ask for everything to be deleted."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("not a prefix: images/<job id>/ or images/<job id>/<token>/")
    return prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What a storage URL cannot say. Left out, the cloud's own environment variables (AWS_*) decide."""

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    request_timeout: float = 20.0
    """Seconds for one request to a bucket, body included. The caller's deadline spans several."""


class Folder:
    """A directory here: files 0600, directories 0700, written whole, no link inside it followed. Raises OSError."""

    can_sign = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.label = f"the folder {root}"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Writes beside the final name, syncs, renames. The extension says the content type already."""
        *parents, name = _parts(key)
        with self._directory(parents, create=True) as folder:
            _write_whole(folder, name, data)

    def open(self, key: str) -> tuple[BinaryIO, int, int]:
        """The file, its length in bytes and its mtime in ns. FileNotFoundError also for a link or a device."""
        *parents, name = _parts(key)
        try:
            with self._directory(parents) as folder:
                # O_NONBLOCK: opening a FIFO somebody left there must not hang a thread.
                descriptor = os.open(name, _READ | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            state = os.fstat(descriptor)
            if stat.S_ISREG(state.st_mode):
                return os.fdopen(descriptor, "rb", buffering=0), state.st_size, state.st_mtime_ns
            os.close(descriptor)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
        raise FileNotFoundError(errno.ENOENT, "no such object", key)

    def read(self, key: str) -> bytes:
        file, _, _ = self.open(key)
        with file:
            return file.read()

    def delete_prefix(self, prefix: str) -> int:
        """Removes everything under `prefix`, half-written files too. How many files went."""
        *parents, name = _parts(prefix.rstrip("/"))
        try:
            with self._directory(parents) as folder:
                return _remove(folder, name)
        except FileNotFoundError:
            return 0

    @contextmanager
    def _directory(self, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
        folder = os.open(self.root, _READ | os.O_DIRECTORY)
        try:
            for part in parts:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=folder)
                inner = os.open(part, _READ | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A place behind obstore: S3, GCS, Azure, or this process's memory. Raises what obstore raises."""

    store: RemoteStore
    label: str
    can_sign: bool

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """One atomic request; S3 checks its signed hash, so bytes changed on the way are refused."""
        attributes = {"Content-Type": content_type, "Cache-Control": "private, max-age=31536000, immutable"}
        # A URL presigned through obstore cannot ask for a file name, so the object carries it. A probe has none.
        with suppress(ValueError):
            attributes["Content-Disposition"] = f'inline; filename="{parse_key(key).file_name}"'
        # No multipart: an aborted one leaves parts that no listing shows and every bill does.
        self.store.put(key, data, attributes=attributes, use_multipart=False)

    def read(self, key: str) -> bytes:
        return bytes(self.store.get(key).bytes())

    def delete_prefix(self, prefix: str) -> int:
        """Removes every object under `prefix`. How many there were."""
        keys = [str(entry["path"]) for page in self.store.list(prefix.rstrip("/")) for entry in page]
        self.store.delete(keys)
        return len(keys)


def open_store(url: str, options: StoreOptions | None = None) -> Folder | Bucket:
    """The place behind `url`: file:///path, {s3,gs}://bucket/prefix, az://container/prefix or memory://.

    Touches no network; a missing folder is made. Raises ValueError for a URL of another form, OSError when the
    folder cannot be made.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"a storage URL begins with {', '.join(f'{name}://' for name in SCHEMES)}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a storage URL holds no credentials, query or fragment; give keys by settings or environment")
    if parts.scheme == "file":
        return Folder(_folder_path(parts))
    if parts.scheme != "memory" and not parts.netloc:
        raise ValueError(f"a storage URL for {parts.scheme} names a bucket: {parts.scheme}://bucket/prefix")
    return _open_bucket(url, parts.scheme, options or StoreOptions())


def as_storage_url(text: str) -> str:
    """A storage setting as a URL for `open_store`. ValueError for one that several processes cannot share.

    A plain path is a folder: absolute, below ~, or below the working directory, which is that of the process.
    """
    if not text.strip():
        raise ValueError("is empty; name a folder, or s3://bucket/prefix")
    if text.startswith("memory:"):
        raise ValueError("memory:// is seen by one process only; name a folder, or s3://bucket/prefix")
    return text if _HAS_SCHEME.match(text) else Path(os.path.abspath(Path(text).expanduser())).as_uri()


def _folder_path(parts: SplitResult) -> Path:
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_absolute() or path == Path("/"):
        raise ValueError("a folder is written file:///absolute/path, with three slashes, and is not / itself")
    return path


def _open_bucket(url: str, scheme: str, options: StoreOptions) -> Bucket:
    from obstore.exceptions import BaseError
    from obstore.store import MemoryStore, from_url

    if scheme == "memory":
        return Bucket(MemoryStore(), "the memory of this process", can_sign=False)
    try:
        return Bucket(from_url(url, **_connection(scheme, options)), url, can_sign=True)
    except BaseError as error:
        raise ValueError(f"storage URL refused: {first_line(error)}") from error


def _connection(scheme: str, options: StoreOptions) -> dict[str, Any]:
    config = {name: value for name, value in asdict(options).items() if value is not None and name != "request_timeout"}
    if config and scheme != "s3":
        raise ValueError(f"endpoint, region and access keys are options of s3://; {scheme}:// reads its environment")
    endpoint = options.endpoint or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    seconds = options.request_timeout
    client = {
        "timeout": timedelta(seconds=seconds),
        "connect_timeout": timedelta(seconds=min(5.0, seconds)),
        "allow_http": scheme == "s3" and endpoint.startswith("http://"),
    }
    # No retries of its own: they last three minutes and hear of no lost lease.
    return {"config": config, "client_options": client, "retry_config": {"max_retries": 0}}


def probe(store: Folder | Bucket, *, clock: Callable[[], float] = time.time) -> None:
    """Puts, reads and deletes one small object under a new name; raises whatever the store raises.

    A process that is killed in between leaves its probe, so probes lie in a folder for each hour of the day.
    """
    hour = int(clock() // 3600)
    name, data = f"{PROBES}/{hour % 24:02}/{secrets.token_hex(16)}/", secrets.token_bytes(64)
    try:
        store.put(name + "probe", data, "application/octet-stream")
        if store.read(name + "probe") != data:
            raise OSError(errno.EIO, "the probe came back changed")
    finally:
        removed = store.delete_prefix(name)
    if removed != 1:
        raise OSError(errno.EIO, "the probe was not listed")


def sweep_probes(store: Folder | Bucket, *, clock: Callable[[], float] = time.time) -> int:
    """Deletes what is left of the probes of twelve hours ago; returns how many. Raises whatever the store raises."""
    hour = int(clock() // 3600)
    return store.delete_prefix(f"{PROBES}/{(hour + 12) % 24:02}/")


def _parts(key: str) -> list[str]:
    if not all(_PART.fullmatch(part) for part in key.split("/")):
        raise ValueError("an object key is made of plain names between single slashes")
    return key.split("/")


def _write_whole(folder: int, name: str, data: bytes) -> None:
    # The leading dot keeps a half-written file out of reach of every valid key.
    temporary = f".{name}.{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def _remove(parent: int, name: str) -> int:
    """Removes a file, a link (never its target) or a directory with all it holds. How many files went."""
    try:
        folder = os.open(name, _READ | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=parent)
        return 1
    removed = 0
    try:
        # Until it is empty: somebody may still write there.
        while names := os.listdir(folder):
            for inner in names:
                with suppress(FileNotFoundError):
                    removed += _remove(folder, inner)
    finally:
        os.close(folder)
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)
    return removed
