"""A scorer's folder on disk: in whose layout it is, and which of its files are opened.

Knows the layouts of transformers' CLIPModel and SiglipModel and of open_clip's checkpoints, JSON and file hashes.
Refuses to know whether all is whole (scorer_judge.py); knows no tensors and imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from worker.models.errors import ModelError
from worker.models.folder import TOKENIZER_FILES, Weights, name_of, read_json, weights_in
from worker.models.hashes import MANIFEST, hash_of, hold_against_manifest, sha256_of
from worker.models.single_file import what_it_is

OPEN_CLIP = "open_clip_config.json"
PREPARATIONS = ("preprocessor_config.json", "processor_config.json")

Kind = Literal["CLIPModel", "SiglipModel", "open_clip"]

FAMILIES: Mapping[str, Kind] = {"clip": "CLIPModel", "siglip": "SiglipModel"}
"""By the `model_type` of config.json. SigLIP 2 is a SiglipModel too, except for its sizes of every shape (NaFlex)."""

SUPPORTED = "folders of transformers' CLIPModel and SiglipModel, and of open_clip"

HALVES = ("clip_text_model", "clip_vision_model", "siglip_text_model", "siglip_vision_model")


@dataclass(frozen=True, slots=True)
class Layout:
    """`config` is the file that says what the network is like; `stem` the name of its weights, without an ending."""

    kind: Kind
    config: str
    stem: str


def is_scorer(path: Path) -> bool:
    """Does a folder hold a model that scores, or half of one, rather than one that draws?"""
    try:
        return not (path / "model_index.json").exists() and any(
            (path / name).is_file() for name in ("config.json", OPEN_CLIP)
        )
    except OSError:  # this user may not look into it, which whoever judges it says
        return False


class ScorerFolder:
    """A folder of a known layout. Files may be symlinks. Raises ModelError where it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise ModelError(what_it_is(path))
        self.layout = _layout(path)

    @property
    def name(self) -> str:
        """What requests call it unless somebody chose a name. Raises ModelError if they could not."""
        return name_of(self.path)

    @property
    def family(self) -> str:
        """The class that it is run as, in transformers' words."""
        return "CLIPModel" if self.layout.kind == "open_clip" else self.layout.kind

    def config(self) -> dict[str, Any]:
        """What its configuration says. Raises ModelError."""
        return read_json(self.path / self.layout.config)

    def weights(self) -> Weights:
        """Raises ModelError if there are none, or an index that is wrong."""
        return weights_in(self.path, self.layout.stem, of_transformers=True)

    @property
    def has_tokenizer(self) -> bool:
        return any((self.path / name).is_file() for name in ("tokenizer.json", "vocab.json"))

    def loaded_files(self) -> list[Path]:
        """All that is opened. Raises ModelError where weights are missing."""
        weights = self.weights()
        prepared = () if self.layout.kind == "open_clip" else PREPARATIONS
        named = [self.path / name for name in (self.layout.config, *prepared, *TOKENIZER_FILES)]
        return [
            file for file in (*named, *([weights.index] if weights.index else []), *weights.files) if file.is_file()
        ]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Of each file that is opened. Reads all weights: a second or more for each gigabyte."""
        return {file.name: sha256_of(file) for file in self.loaded_files()}

    @property
    def sha256(self) -> str:
        """Hash over the sorted `hash  name` lines of every file that a vector depends on."""
        return hash_of(self.hashes)

    def check_hashes(self) -> None:
        """Hold the files against sha256sums.txt, where the folder has one. Raises ModelError with all that differ."""
        if (self.path / MANIFEST).is_file():
            hold_against_manifest(self.path, self.hashes)


def _layout(path: Path) -> Layout:
    if (path / "model_index.json").exists():
        raise ModelError(f"{path} is a model that draws, and cannot score; supported: {SUPPORTED}.")
    has_open_clip = (path / OPEN_CLIP).is_file()
    own = Layout("open_clip", OPEN_CLIP, "open_clip_model")
    if (path / "config.json").is_file():
        said = read_json(path / "config.json")
        kind = FAMILIES.get(str(said.get("model_type")))
        # Folders of LAION have both layouts.
        if kind and not (has_open_clip and not _has_weights(path, "model")):
            return Layout(kind, "config.json", "model")
        if not has_open_clip:
            raise ModelError(_another_model(path, said))
    if has_open_clip:
        return own
    raise ModelError(f"{path} holds no model that scores: it has no config.json; supported: {SUPPORTED}.")


def _has_weights(path: Path, stem: str) -> bool:
    return any(path.glob(f"{stem}*.safetensors")) or any(path.glob(f"{stem}.safetensors.index*.json"))


def _another_model(path: Path, said: Mapping[str, Any]) -> str:
    kind = str(said.get("model_type"))[:60]
    if kind in HALVES:
        tower = "text" if "text" in kind else "vision"
        return (
            f"{path} is the {tower} tower of a CLIP alone ({kind}), and a score needs both; supported: {SUPPORTED}. "
            "The text encoder of a Stable Diffusion model is such a tower: that of 2.x lacks its last layer and the "
            "projection, so there is no way back from it."
        )
    return f"{path} holds a {kind}, which does not score; supported: {SUPPORTED}."
