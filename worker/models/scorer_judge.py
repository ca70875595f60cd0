"""Can this folder score? One answer for `darkroom doctor` and for the worker that would load it.

As judge.py for models that draw: reads JSON, tokenizers and the headers of safetensors files, and no weights. What
needs the worker's packages lies in scorer_parts.py; without them the verdict says what is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.models.errors import ModelError
from worker.models.hashes import MANIFEST, read_manifest
from worker.models.headers import Tensor
from worker.models.judge import raise_all, tensors_in
from worker.models.need import BYTES, Need, Rooms
from worker.models.scorer_folder import ScorerFolder
from worker.models.tokens import tokenizer_file_faults
from worker.models.unsafe import unsafe_faults_of_scorer

NEEDS_PACKAGES = "names and shapes of tensors, tokenizer, preparation of pictures (they need darkroom[worker])"

PICTURES = 16
"""That are looked at together."""

SEEN = 0.06e9
"""Bytes that looking at a picture takes beside the weights."""


@dataclass(frozen=True, kw_only=True)
class ScorerVerdict:
    """`faults`: reasons not to serve the folder, one sentence each with the remedy; none for a good one. `notes`: what
    the operator should know all the same. `unjudged`: what could not be looked at here."""

    path: Path
    folder: ScorerFolder | None = None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unjudged: str = ""
    need: Need | None = None


def judge_scorer(path: Path, *, dtype: str = "float32", rooms: Rooms | None = None) -> ScorerVerdict:
    """The verdict on a folder, also on one that does not exist, for a scorer that runs in `dtype`, in torch's words.

    Without `rooms`, the memory that there is for it, what it needs is told and not judged.
    """
    try:
        folder = ScorerFolder(path)
        return _verdict(folder, dtype, rooms)
    except ModelError as error:
        return ScorerVerdict(path=path, faults=error.faults)
    except OSError as error:  # a folder into which this user may not look
        return ScorerVerdict(path=path, faults=(f"{error.filename or path} cannot be read ({error.strerror}).",))


def _verdict(folder: ScorerFolder, dtype: str, rooms: Rooms | None) -> ScorerVerdict:
    faults, unjudged, need = [*unsafe_faults_of_scorer(folder)], "", None
    notes: list[str] = []
    try:
        tensors = tensors_in(folder.weights(), folder.path)
    except ModelError as error:
        faults += error.faults
    else:
        need = _need(tensors, dtype)
        wrong, unjudged = _with_packages(folder, tensors)
        faults += wrong
        if rooms:
            faults += rooms.faults(need, folder.path)
            notes += rooms.notes(need, folder.path)
    faults += [*_tokenizer_faults(folder), *_manifest_faults(folder)]
    return ScorerVerdict(
        path=folder.path,
        folder=folder,
        faults=tuple(dict.fromkeys(faults)),
        notes=tuple(notes),
        unjudged=unjudged,
        need=need,
    )


def _need(tensors: Mapping[str, Tensor], dtype: str) -> Need:
    elements = sum(tensor.elements for tensor in tensors.values())
    return Need(weights=elements * BYTES[dtype], step=PICTURES * SEEN, decode=0.0, dtype=dtype)


def _with_packages(folder: ScorerFolder, tensors: Mapping[str, Tensor]) -> tuple[list[str], str]:
    """What transformers finds, and what is open because it is not here."""
    try:
        from worker.models.scorer_parts import network_config, network_faults, text_config
        from worker.models.scorer_texts import reader_of
    except ImportError as error:
        return [], f"{NEEDS_PACKAGES}: {error}"
    from worker.models.quiet import quiet_libraries
    from worker.models.shapes import cannot_be_loaded

    if faults := [*network_faults(folder, tensors)]:
        return faults, ""
    try:
        with quiet_libraries():
            tower = text_config(network_config(folder))
            reader_of(folder, length=tower.max_position_embeddings, vocabulary=tower.vocab_size)
    except ModelError as error:
        return [*error.faults], ""
    except Exception as error:
        return [cannot_be_loaded(folder.path, error)], ""
    return [], ""


def _tokenizer_faults(folder: ScorerFolder) -> Iterator[str]:
    if folder.layout.kind == "open_clip" and not folder.has_tokenizer:
        return
    if folder.layout.kind == "SiglipModel":
        if not (folder.path / "tokenizer.json").is_file():
            yield (
                f"{folder.path} has no tokenizer.json; fetch it with the model, or write it with "
                "AutoTokenizer.from_pretrained(…).save_pretrained(…)."
            )
        return
    yield from tokenizer_file_faults(folder.path)


def _manifest_faults(folder: ScorerFolder) -> Iterator[str]:
    """Is every file in it there, and every file that is opened in it? Its hashes are compared when all is read."""
    manifest = folder.path / MANIFEST
    if not manifest.is_file():
        return
    try:
        listed = set(read_manifest(manifest))
        opened = {file.name for file in folder.loaded_files()}
        missing = [name for name in sorted(listed - opened) if not (folder.path / name).is_file()]
        raise_all(
            f"{folder.path / name} is {wrong} {MANIFEST}; fetch the model again."
            for names, wrong in ((sorted(opened - listed), "not listed in"), (missing, "missing, but listed in"))
            for name in names
        )
    except ModelError as error:
        yield from error.faults
