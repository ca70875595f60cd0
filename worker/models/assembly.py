"""A model folder that shares its parts with others: put together from them once, checked, and kept.

Such a folder has an `assembly.json` instead of some of its files: which are copied from another folder, and which
safetensors files are made of the tensors of others. Of the bundled unCLIP model's 27 MB some 10 are the
bundled model's and the bundled scorer's, and every clone would carry those twice. Knows paths, hashes and the container
of safetensors (a length, a JSON header, bytes: https://huggingface.co/docs/safetensors); knows no tensor's numbers, and
refuses to read what lies neither beside the folder nor among the bundled models.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from app.contract.messages.model_name import BUNDLED_MODEL

ASSEMBLY = "assembly.json"
MANIFEST = "sha256sums.txt"
UNLISTED = frozenset({MANIFEST, "README.md", "NOTICE"})
"""What the manifest does not name, because no picture depends on it: a card is corrected later."""
LONGEST_HEADER = 1 << 26
"""Bytes of a safetensors header."""


class AssemblyError(ValueError):
    """The folder cannot be put together. `str()` is one sentence with the remedy."""


def _stays_inside(path: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError("a file of the model lies in its folder")
    return path


Inside = Annotated[str, AfterValidator(_stays_inside)]


class Source(BaseModel):
    """A safetensors file, and which of its tensors are taken: those whose names begin so, or all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    prefixes: tuple[str, ...] = ("",)


class Assembly(BaseModel):
    """What `assembly.json` says. Paths of sources are relative to the folder and may lead to those beside it; `copies`
    are files or folders. Of tensors with one name, the last source's is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    copies: Mapping[Inside, str]
    tensors: Mapping[Inside, tuple[Source, ...]]

    def sources(self) -> frozenset[str]:
        return frozenset(source.file for files in self.tensors.values() for source in files)


def meant(folder: Path) -> Path:
    """The name of a bundled model means that model, unless there is a folder of this name here."""
    bundled = BUNDLED_MODEL.parent / folder
    return bundled if len(folder.parts) == 1 and not folder.exists() and bundled.is_dir() else folder


def whole_model(folder: Path) -> Path:
    """The folder that is `meant`, and is whole.

    One with an `assembly.json` is put together in the user's cache, if that was not done before; any other is whole, or
    somebody else's to judge. Raises AssemblyError.
    """
    try:
        folder = meant(folder)
        if not (folder / ASSEMBLY).is_file():
            return folder
    except OSError:  # this user may not look into it, which whoever judges it says
        return folder
    try:
        return assembled(folder, _cache())
    except RuntimeError as error:  # a user without a home
        raise AssemblyError(f"{folder} cannot be put together ({error}); {REMEDY}") from error


def assembled(folder: Path, cache: Path) -> Path:
    """A folder of the same name somewhere in `cache`, made now, or before: then it is looked at again, and made anew if
    its files are others by now. Raises AssemblyError."""
    try:
        manifest = (folder / MANIFEST).read_text()
        place = cache / hashlib.sha256(manifest.encode()).hexdigest()[:16]
        whole = place / os.path.realpath(folder).rsplit("/", 1)[-1]
        if whole.is_dir() and _wrong_file(whole, manifest):
            _take_away(whole)
        if not whole.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            _make(folder, whole, manifest)
        return whole
    except OSError as error:
        where = error.filename or folder
        raise AssemblyError(f"{folder} cannot be put together ({where}: {error.strerror}); {REMEDY}") from error
    except UnicodeDecodeError as error:
        raise AssemblyError(f"{folder / MANIFEST} is no text; {REMEDY}") from error


REMEDY = "check it out again beside the folders that it shares parts with, and let XDG_CACHE_HOME be a writable folder"


def _make(folder: Path, whole: Path, manifest: str) -> None:
    """Beside its place first, so that what is there is whole. Two that do so at once write the same."""
    partial = Path(tempfile.mkdtemp(dir=whole.parent))
    try:
        put_together(folder, partial)
        shutil.copy(folder / MANIFEST, partial)
        if wrong := _wrong_file(partial, manifest):
            raise AssemblyError(f"{folder} is put together from other files than it was made for ({wrong}); {REMEDY}")
        partial.chmod(0o755)
        partial.rename(whole)
    except OSError:
        if not whole.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_together(folder: Path, into: Path) -> None:
    """Write all files of the model, its manifest excepted. OSError for a source that is missing; AssemblyError."""
    assembly = _read(folder)
    own = {PurePosixPath(source) for source in assembly.sources()} | {PurePosixPath(ASSEMBLY), PurePosixPath(MANIFEST)}
    for file in folder.rglob("*"):
        inside = PurePosixPath(file.relative_to(folder).as_posix())
        if file.is_file() and inside not in own:
            _copy(_source(folder, str(inside)), into / inside)
    for name, source in assembly.copies.items():
        _copy(_source(folder, source), into / name)
    for name, sources in assembly.tensors.items():
        _write_tensors([(_source(folder, source.file), source.prefixes) for source in sources], into / name)


def _read(folder: Path) -> Assembly:
    try:
        return Assembly.model_validate_json((folder / ASSEMBLY).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise AssemblyError(f"{folder / ASSEMBLY} cannot be read ({where}: {first['msg']}); {REMEDY}") from None


def _source(folder: Path, name: str) -> Path:
    """Where a source lies, links followed. Raises AssemblyError for one that is somewhere else than models are: who
    wrote the folder must not have any file of this machine copied."""
    homes = [os.path.realpath(home) for home in (folder.resolve().parent, BUNDLED_MODEL.parent)]
    source = (folder / name).resolve()
    for each in (source, *source.rglob("*")):
        real = each.resolve()
        if not any(real.is_relative_to(home) for home in homes):
            raise AssemblyError(
                f"{folder / ASSEMBLY} takes {name} from {real}, which lies neither beside {folder.name} nor among the "
                "bundled models; put the model that it shares parts with beside it"
            )
    return source


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _write_tensors(sources: list[tuple[Path, tuple[str, ...]]], target: Path) -> None:
    """One safetensors file, its tensors in the order of their names, without holes as the format wants it."""
    taken: dict[str, tuple[dict[str, Any], bytes]] = {}
    for file, prefixes in sources:
        taken |= {name: tensor for name, *tensor in _tensors(file) if name.startswith(prefixes)}  # type: ignore[misc]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (about, data) in sorted(taken.items()):
        header[name] = about | {"data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.writelines(data for _, (_, data) in sorted(taken.items()))


def _tensors(file: Path) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Name, type with shape, and bytes of each tensor. Raises AssemblyError for what is no safetensors file."""
    content = memoryview(file.read_bytes())
    try:
        length = int.from_bytes(content[:8], "little")
        if length > min(LONGEST_HEADER, len(content)):
            raise ValueError("the header is longer than the file")
        header = json.loads(bytes(content[8 : 8 + length]))
        data = content[8 + length :]
        for name, about in header.items():
            if name != "__metadata__":
                first, last = about["data_offsets"]
                if not 0 <= first <= last <= len(data):
                    raise ValueError(f"{name} lies outside of the file")
                yield name, {"dtype": about["dtype"], "shape": about["shape"]}, bytes(data[first:last])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AssemblyError(f"{file} is no whole safetensors file ({error}); {REMEDY}") from None


def _wrong_file(whole: Path, manifest: str) -> str | None:
    """A file that is not what the manifest says, or of which it says nothing; None where all is as it should be."""
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in manifest.splitlines())}
    there = {file.relative_to(whole).as_posix() for file in whole.rglob("*") if not file.is_dir()}
    strange = sorted(there - listed.keys() - UNLISTED)
    wrong = (name for name, digest in listed.items() if _sha256(whole / name) != digest)
    return strange[0] if strange else next(wrong, None)


def _take_away(whole: Path) -> None:
    """Whoever has its files open keeps them."""
    away = Path(tempfile.mkdtemp(dir=whole.parent))
    try:
        whole.rename(away / whole.name)
    finally:
        shutil.rmtree(away, ignore_errors=True)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _cache() -> Path:
    """As the XDG Base Directory Specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkroom" / "models"
