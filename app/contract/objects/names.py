"""How the key of an object is spelled: of a picture, of what is kept of its steps, of a picture that came in, of an
adapter's thumbnail, of a running job's snapshot, and what the keys of a job begin with. And what is said of an object
with its bytes, whoever sends them.

Refuses to know where objects lie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

CONTENT_TYPES: Mapping[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Output format, as a job names it, to media type."""

EXTENSIONS: Mapping[str, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
SHEET = "-previews"
"""What the name of a sheet of previews has more than its picture's."""

TRAJECTORY = "-trajectory"
"""The same of the files of a trajectory."""

TRAJECTORY_TYPES: Mapping[str, str] = {
    "json": "application/json",
    "safetensors": "application/octet-stream",
    "webp": "image/webp",
    "jpg": "image/jpeg",
}
"""Extension of each file of a trajectory to media type: what the steps are, their latents, a film, a sheet of frames.
For safetensors none is registered."""

EMBEDDING = "-embedding"
"""The same of the vectors that a picture was drawn from."""

VECTORS = "safetensors"

INPUTS = "inputs"
"""Where pictures that came in lie, in a folder for each tenant."""

THUMBNAILS = "thumbnails"
"""Where small pictures of what adapters do lie: JPEGs, for everybody who may ask for a model."""

SNAPSHOTS = "snapshots"
"""Where lies what running jobs can go on from, in a folder for each job and attempt. No link leads there: whoever has
one can guess how a picture of somebody else's will look."""

CELL_MARK = "darkroom-cell.json"
"""Says to which Redis all that lies in a store belongs."""

CELL_WORD = "darkroom-cell-word"
"""Changed by whoever uses the store, so that a copy of that Redis sees that it is not alone."""

CACHE_CONTROL = "private, max-age=31536000, immutable"
"""Of what callers are shown. Its key never gets other bytes: it holds their hash, or the token of whoever made them."""

_OF_PICTURES = {extension: CONTENT_TYPES[name] for name, extension in EXTENSIONS.items()}
_FILES: Mapping[str, Mapping[str, str]] = {
    "": _OF_PICTURES,
    SHEET: _OF_PICTURES,
    TRAJECTORY: TRAJECTORY_TYPES,
    EMBEDDING: {VECTORS: TRAJECTORY_TYPES[VECTORS]},
}
"""A picture and each file beside it, by what its name has more, with its extensions and their media types."""

_JOB, _TOKEN = "job_[0-9a-z]{24}", "[0-9a-f]{32}"
_PREFIX = re.compile(rf"images/{_JOB}/({_TOKEN}/)?", re.ASCII)
_KEY = re.compile(rf"images/({_JOB})/({_TOKEN})/(0|[1-9][0-9]{{0,2}})(-[a-z]+)?\.([a-z]+)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SNAPSHOT_KEY = re.compile(rf"{SNAPSHOTS}/{_JOB}/{_TOKEN}/[01]\.safetensors", re.ASCII)
_INPUT_KEY = re.compile(INPUTS + r"/[a-z0-9][a-z0-9_-]{0,63}/[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImageKey:
    """The parts of the object key of one picture, or of a file beside it: `part` is SHEET, TRAJECTORY or EMBEDDING, and
    empty for the picture itself."""

    job_id: str
    token: str
    index: int
    extension: str
    part: str = ""

    @property
    def file_name(self) -> str:
        """What a browser should call the download. Carries the job and no token."""
        return f"{self.job_id}-{self.index}{self.part}.{self.extension}"

    @property
    def content_type(self) -> str:
        return _FILES[self.part][self.extension]


def image_key(job_id: str, token: str, index: int, output_format: str) -> str:
    """The key of picture `index` (0 to 999) of one attempt. ValueError for any part of another form."""
    if output_format not in EXTENSIONS:
        raise ValueError(f"unknown output format {output_format!r}; it is one of {', '.join(EXTENSIONS)}")
    return _key(job_id, token, index, EXTENSIONS[output_format])


def sheet_key(job_id: str, token: str, index: int) -> str:
    """The key of the sheet of previews beside picture `index`, a JPEG. ValueError for any part of another form."""
    return _key(job_id, token, index, EXTENSIONS["jpeg"], SHEET)


def trajectory_key(job_id: str, token: str, index: int, extension: str) -> str:
    """The key of a file of the trajectory of picture `index`. ValueError for any part of another form."""
    return _key(job_id, token, index, extension, TRAJECTORY)


def embedding_key(job_id: str, token: str, index: int) -> str:
    """The key of the vectors that picture `index` was drawn from. ValueError for any part of another form."""
    return _key(job_id, token, index, VECTORS, EMBEDDING)


def _key(job_id: str, token: str, index: int, extension: str, part: str = "") -> str:
    parse_key(key := f"images/{job_id}/{token}/{index}{part}.{extension}")
    return key


def parse_key(key: str) -> ImageKey:
    """The parts of a key of a picture, or of a file beside it. ValueError for any other string, traversals included."""
    found = _KEY.fullmatch(key)
    job_id, token, index, part, extension = found.groups("") if found else [""] * 5
    if extension not in _FILES.get(part, ()):
        raise ValueError("not a picture's key: images/<job id>/<token>/<index>.<png, jpg or webp>")
    return ImageKey(job_id, token, int(index), extension, part)


def content_disposition(file_name: str) -> str:
    """What a browser is told to call a download. `file_name` is one of ours, without a quote in it."""
    return f'inline; filename="{file_name}"'


def input_key(tenant: str, sha256: str) -> str:
    """The key of a tenant's picture that came in, by what its file hashes to. ValueError for parts of another form."""
    return require_input(f"{INPUTS}/{tenant}/{sha256}")


def require_input(key: str) -> str:
    """`key` if `input_key` could have made it. ValueError for any other string, traversals included."""
    if not _INPUT_KEY.fullmatch(key):
        raise ValueError("not an input's key: inputs/<tenant>/<sha256>")
    return key


def thumbnail_key(sha256: str) -> str:
    """The key of an adapter's thumbnail, by what it hashes to. ValueError for anything but 64 hex digits."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError("not a thumbnail's hash: 64 hex digits")
    return f"{THUMBNAILS}/{sha256}.jpg"


def snapshot_key(job_id: str, token: str, slot: int) -> str:
    """The key of a snapshot of an attempt: slot 0 or 1, of which one stays whole while the other is written. ValueError
    for any part of another form."""
    return require_snapshot(f"{SNAPSHOTS}/{job_id}/{token}/{slot}.safetensors")


def snapshots_prefix(job_id: str, token: str) -> str:
    """What the keys of both begin with. ValueError for any part of another form."""
    return snapshot_key(job_id, token, 0).removesuffix("0.safetensors")


def require_snapshot(key: str) -> str:
    """`key` if `snapshot_key` could have made it. ValueError for any other string, traversals included."""
    if not _SNAPSHOT_KEY.fullmatch(key):
        raise ValueError("not a snapshot's key: snapshots/<job id>/<token>/<0 or 1>.safetensors")
    return key


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
