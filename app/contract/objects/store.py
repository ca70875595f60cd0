"""The folder or bucket behind a storage URL. Gateway and worker put and read through here.

Refuses to know jobs, Redis and HTTP, and never retries: whoever calls decides how long to hope.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from app.contract.objects.faults import first_line
from app.contract.objects.folder import Folder
from app.contract.objects.names import CACHE_CONTROL, content_disposition, parse_key

if TYPE_CHECKING:
    from obstore.store import ObjectStore as RemoteStore

_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)

PROBES = "probe"
"""Where a store is tried out."""

SCHEMES = ("file", "s3", "gs", "az", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What a storage URL cannot say. Left out, the cloud's own environment variables (AWS_*) decide."""

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    request_timeout: float = 20.0
    """Seconds for one request to a bucket, body included. The caller's deadline spans several."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A place behind obstore: S3, GCS, Azure, or this process's memory. Raises what obstore raises."""

    store: RemoteStore
    label: str
    can_sign: bool

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """One atomic request; S3 checks its signed hash, so bytes changed on the way are refused."""
        attributes = {"Content-Type": content_type, "Cache-Control": CACHE_CONTROL}
        # A URL presigned through obstore cannot ask for a file name, so the object carries it. A probe has none.
        with suppress(ValueError):
            attributes["Content-Disposition"] = content_disposition(parse_key(key).file_name)
        # No multipart: an aborted one leaves parts that no listing shows and every bill does.
        self.store.put(key, data, attributes=attributes, use_multipart=False)

    def create(self, key: str, data: bytes, content_type: str) -> bool:
        """The same where no such object is; else False, and nothing is changed. A store that takes no conditions, which
        each says in words of its own, is asked first: of two that come at the same moment both may be told True."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            self.store.put(key, data, attributes={"Content-Type": content_type}, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except (BaseError, NotImplementedError):
            if self.written_at(key) is not None:
                return False
            self.put(key, data, content_type)
        return True

    def read(self, key: str) -> bytes:
        return bytes(self.store.get(key).bytes())

    def delete(self, key: str) -> None:
        """Removes one object. One that is not there is no error."""
        with suppress(FileNotFoundError):
            self.store.delete(key)

    def delete_prefix(self, prefix: str) -> int:
        """Removes every object under `prefix`. How many there were."""
        keys = [str(entry["path"]) for page in self.store.list(prefix.rstrip("/")) for entry in page]
        self.store.delete(keys)
        return len(keys)

    def written_at(self, key: str) -> float | None:
        """When the object was written, in seconds since 1970; None if there is none."""
        try:
            return float(self.store.head(key)["last_modified"].timestamp())
        except FileNotFoundError:
            return None

    def modified(self, folder: str) -> dict[str, float]:
        """The key of each object below `folder`, and when it was written, in seconds since 1970."""
        pages = self.store.list(folder)
        return {str(entry["path"]): entry["last_modified"].timestamp() for page in pages for entry in page}


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
