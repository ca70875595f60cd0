"""A model folder on disk: the layout that diffusers writes, and which of its files are opened.

Knows the layout, JSON and file hashes. Refuses to know whether the parts are whole and fit each other (judge.py); knows
no tensors and imports no torch. Whatever it does not name is never opened, so it may be anything.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from app.contract.messages.model_name import IllegalName, model_name
from worker.models.errors import ModelError
from worker.models.hashes import MANIFEST, hash_of, hold_against_manifest, sha256_of
from worker.models.pipeline import Pipeline
from worker.models.pipelines import PIPELINES, SAFETY_CHECKER, is_of_transformers
from worker.models.single_file import what_it_is
from worker.models.two_folders import index_behind

WEIGHTS: Mapping[str, str] = {
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    SAFETY_CHECKER: "model",
    "prior_text_encoder": "model",
    "prior": "diffusion_pytorch_model",
    "image_normalizer": "diffusion_pytorch_model",
    "image_encoder": "model",
    "text_proj": "diffusion_pytorch_model",
    "super_res_first": "diffusion_pytorch_model",
    "super_res_last": "diffusion_pytorch_model",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
SCHEDULERS = ("scheduler", "prior_scheduler", "image_noising_scheduler", "super_res_scheduler")
CONFIGS: Mapping[str, str] = {
    **dict.fromkeys(SCHEDULERS, "scheduler_config.json"),
    "feature_extractor": "preprocessor_config.json",
}
"""Of parts whose configuration is not called config.json."""
DEFAULTS = "darkroom.json"
LONGEST_JSON = 1 << 26
"""Bytes. The longest one there is, a tokenizer, has some three million."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of one part's weights. `index` tells which tensor lies in which, where there are several;
    `variant` is `fp16` for weights that are there in that variant only."""

    files: tuple[Path, ...]
    index: Path | None = None
    variant: str | None = None


class ModelFolder:
    """A folder of a known pipeline; `vae` is a folder whose VAE takes the place of its own, `prior` one with the parts
    before its own, where a model comes in two. `checked`: its safety checker is wanted too. Parts have our names here.

    Files may be symlinks, as in a snapshot of the Hugging Face cache. Raises ModelError where it is none.
    """

    def __init__(
        self, path: Path, *, vae: Path | None = None, prior: Path | None = None, checked: bool = False
    ) -> None:
        self.path = path
        self.vae = vae
        self.prior = prior
        self.checked = checked
        if not path.is_dir():
            raise ModelError(what_it_is(path))
        self.index = self._read_index()
        self.pipeline = self._pipeline()
        self.index |= {own: self.index.get(theirs) for own, theirs in self.pipeline.named.items()}
        self.index |= index_behind(path, self.pipeline, prior, read_json)
        if vae is not None:
            self.index = self.index | {"vae": ["diffusers", self._class_of_vae(vae)]}

    def part(self, component: str) -> Path:
        """The folder of a part."""
        if component == "vae" and self.vae is not None:
            return self.vae
        path, name = self.home(component)
        return path / name

    def home(self, component: str) -> tuple[Path, str]:
        """The folder whose model_index.json names the part, and the name that it has there."""
        behind = self.pipeline.behind
        if behind and self.prior and component in behind.named:
            return self.prior, behind.named[component]
        return self.path, self.pipeline.named.get(component, component)

    def without_vae(self) -> ModelFolder:
        """The same with its own VAE."""
        return ModelFolder(self.path, prior=self.prior, checked=self.checked)

    @property
    def name(self) -> str:
        """What requests call it unless somebody chose a name. Raises ModelError if they could not."""
        return name_of(self.path)

    @property
    def has_checker(self) -> bool:
        """Does it come with a safety checker that is known here?"""
        return SAFETY_CHECKER in self.pipeline.checker and _is_named(self.index.get(SAFETY_CHECKER))

    @property
    def components(self) -> Mapping[str, tuple[str, ...]]:
        """The parts that are loaded, each with the classes it may be of."""
        checker = self.pipeline.checker if self.checked and self.has_checker else {}
        optional = {name: each for name, each in self.pipeline.optional.items() if _is_named(self.index.get(name))}
        return {**self.pipeline.components, **optional, **checker}

    @property
    def weighted(self) -> tuple[str, ...]:
        """Those of them that have weights."""
        return tuple(name for name in self.components if name in WEIGHTS)

    @property
    def sha256(self) -> str:
        """Hash over the sorted `hash  path` lines of every file that a picture's pixels depend on."""
        return hash_of({name: digest for name, digest in self.hashes.items() if self._decides_pixels(name)})

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Of each file that is opened. Reads all weights: a second or more for each gigabyte."""
        return {self.relative(file): sha256_of(file) for file in self.loaded_files()}

    def relative(self, file: Path) -> str:
        """The file's name in the model, wherever its part lies."""
        for name, path in self._elsewhere.items():
            if file.is_relative_to(path):
                return f"{name}/{file.relative_to(path).as_posix()}"
        return file.relative_to(self.path).as_posix()

    def is_elsewhere(self, name: str) -> bool:
        """Is a file of that name in the model one of another folder?"""
        return name.partition("/")[0] in self._elsewhere

    @property
    def _elsewhere(self) -> dict[str, Path]:
        """Other folders with parts of it, by what stands for them in names of files."""
        return {name: path for name, path in (("vae", self.vae), ("prior", self.prior)) if path is not None}

    def class_of(self, component: str) -> str:
        """The component's class name in diffusers or transformers."""
        return str(self.index[component][1])

    def config_file(self, component: str) -> Path:
        return self.part(component) / CONFIGS.get(component, "config.json")

    def config(self, component: str) -> dict[str, Any]:
        """What the component's configuration says, without what it leaves to its class. Raises ModelError."""
        return read_json(self.config_file(component))

    def weights(self, component: str) -> Weights:
        """The files that the libraries take. Raises ModelError if there are none, or an index that is wrong."""
        return weights_in(self.part(component), WEIGHTS[component], of_transformers=is_of_transformers(component))

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of this folder. Raises ModelError if it is missing or damaged."""
        return read_json(self.path / name)

    def loaded_files(self) -> list[Path]:
        """All that is opened. Raises ModelError where weights are missing."""
        files = [self.path / "model_index.json", self.path / DEFAULTS]
        for component in self.components:
            if component in WEIGHTS:
                weights = self.weights(component)
                files += [self.config_file(component), *([weights.index] if weights.index else []), *weights.files]
            elif component in CONFIGS:
                files.append(self.config_file(component))
            else:
                files += [self.part(component) / name for name in TOKENIZER_FILES]
        return [file for file in files if file.is_file()]

    def check_hashes(self) -> None:
        """Hold the files against sha256sums.txt, where the folder has one. Raises ModelError with all that differ."""
        if (self.path / MANIFEST).is_file():
            hold_against_manifest(self.path, {n: d for n, d in self.hashes.items() if not self.is_elsewhere(n)})

    def _decides_pixels(self, name: str) -> bool:
        return name != DEFAULTS and name.partition("/")[0] not in self.pipeline.checker

    def _read_index(self) -> dict[str, Any]:
        if not (self.path / "model_index.json").exists():
            raise ModelError(
                f"{self.path} is not in diffusers' layout (it has no model_index.json); "
                "convert single-file checkpoints with StableDiffusionPipeline.from_single_file and save_pretrained."
            )
        return self.read_json("model_index.json")

    def _pipeline(self) -> Pipeline:
        name = self.index.get("_class_name")
        if not isinstance(name, str) or name not in PIPELINES:
            holds = f"holds a {name}" if name else "is of no family: its model_index.json names none"
            raise ModelError(f"{self.path} {holds}; supported families: {', '.join(PIPELINES)}.")
        return PIPELINES[name]

    def _class_of_vae(self, vae: Path) -> str:
        if "AutoencoderKL" not in self.pipeline.components.get("vae", ()):
            raise ModelError(f"DARKROOM_VAE: a {self.pipeline.name} has an autoencoder of its own kind; unset it.")
        if not vae.is_dir():
            raise ModelError(f"DARKROOM_VAE: {vae} is no folder; name one that AutoencoderKL.save_pretrained wrote.")
        if not (vae / "config.json").is_file() and (vae / "vae" / "config.json").is_file():
            raise ModelError(f"DARKROOM_VAE: {vae} is a whole model; name {vae / 'vae'}.")
        return str(read_json(vae / "config.json").get("_class_name"))


def name_of(path: Path) -> str:
    """What requests call the model in a folder. Raises ModelError if they could not."""
    try:
        return model_name(path)
    except IllegalName as error:
        raise ModelError(str(error)) from None


def _is_named(entry: object) -> bool:
    """Does an entry of model_index.json name a class? One of a part that is not there has nulls."""
    return isinstance(entry, list) and any(entry)


def weights_in(folder: Path, stem: str, *, of_transformers: bool) -> Weights:
    """The files in `folder` that one of the libraries takes. Raises ModelError if there are none, or an index that is
    wrong."""
    for variant in (None, "fp16"):
        infix = f".{variant}" if variant else ""
        single = folder / f"{stem}{infix}.safetensors"
        index = folder / f"{stem}.safetensors.index{infix}.json"
        # Where both are there, transformers takes the single file, and diffusers the others.
        if single.is_file() and (of_transformers or not index.is_file()):
            return Weights((single,), variant=variant)
        if index.is_file():
            return Weights(_shards(index), index=index, variant=variant)
    raise ModelError(_no_weights(folder, stem))


def weight_map(index: Path) -> dict[str, str]:
    """Names of files by those of tensors, as an index has them. Raises ModelError."""
    content = read_json(index)
    files = content.get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()) or not files:
        raise ModelError(f"{index} has no weight_map; fetch the file again.")
    # diffusers adds to them, and cannot do without.
    if not isinstance(content.get("metadata"), dict):
        raise ModelError(f"{index} has no metadata; fetch the file again.")
    return files


def _shards(index: Path) -> tuple[Path, ...]:
    names = sorted(set(weight_map(index).values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index} names {name[:100]}, which is no safetensors file beside it; fetch it again.")
    return tuple(index.parent / name for name in names)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError if the file is missing or damaged."""
    if not file.is_file():
        raise ModelError(f"{file} is {_instead_of_a_file(file)}; fetch the whole model.")
    try:
        with file.open("rb") as opened:
            value = json.loads(opened.read(LONGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is no readable JSON ({error}); fetch the file again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} must hold a JSON object; fetch the file again.")
    return value


def file_fault(file: Path) -> str | None:
    """Why a file cannot be opened, or None."""
    if not file.is_file():
        return f"{file} is {_instead_of_a_file(file)}; fetch the whole model."
    try:
        with file.open("rb"):
            return None
    except OSError as error:
        return f"{file} cannot be read ({error.strerror}); give this user the right to."


def _no_weights(folder: Path, stem: str) -> str:
    """With what is there in their place: the name says what went wrong."""
    broken = [file for file in (folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors") if _is_there(file)]
    if broken:
        return f"{broken[0]} is {_instead_of_a_file(broken[0])}; fetch the whole model."
    return f"{folder} has no {stem}.safetensors; download or convert the weights."


def _is_there(file: Path) -> bool:
    return file.is_symlink() or file.exists()


def _instead_of_a_file(file: Path) -> str:
    try:
        kind = file.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if file.is_symlink() else "missing"
    except OSError as error:
        return f"out of reach ({error.strerror})"
    return "a folder, not a file" if stat.S_ISDIR(kind) else "not a file that can be read"
