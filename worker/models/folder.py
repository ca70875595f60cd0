"""A model folder on disk, looked at before anything in it is loaded.

Knows the layout diffusers writes, file hashes and what must never be loaded. Knows no tensors and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.contract.model_name import IllegalName, model_name
from worker.models.errors import ModelError
from worker.models.families import FAMILIES, Family

WEIGHTS: Mapping[str, str] = {
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
UNSAFE = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".py", ".pyc")
DEFAULTS = "darkroom.json"
MANIFEST = "sha256sums.txt"
CHUNK = 1 << 22


class ModelFolder:
    """A folder that has passed every check that needs no loading.

    Files may be symlinks, as in a snapshot of the Hugging Face cache. Raises ModelError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise ModelError(f"The model folder {path} does not exist; name a folder written by save_pretrained.")
        self._refuse_unsafe_files()
        self.index = self._read_index()
        self.family = self._family()
        self._check_classes()
        self.hashes = {file.relative_to(path).as_posix(): _sha256(file) for file in self._loaded_files()}
        self._check_manifest()

    @property
    def name(self) -> str:
        """What requests call it unless somebody chose a name. Raises ModelError if they could not."""
        try:
            return model_name(self.path)
        except IllegalName as error:
            raise ModelError(str(error)) from None

    @property
    def sha256(self) -> str:
        """Hash over the sorted `hash  path` lines of every file that a picture depends on."""
        files = sorted(item for item in self.hashes.items() if item[0] != DEFAULTS)
        lines = "".join(f"{digest}  {name}\n" for name, digest in files)
        return hashlib.sha256(lines.encode()).hexdigest()

    def class_of(self, component: str) -> str:
        """The component's class name in diffusers or transformers."""
        return str(self.index[component][1])

    def variant_of(self, component: str) -> str | None:
        """`fp16` if the component has weights of that variant only. Raises ModelError if it has none at all."""
        stem = WEIGHTS[component]
        for variant in (None, "fp16"):
            infix = f".{variant}" if variant else ""
            names = (f"{stem}{infix}.safetensors", f"{stem}.safetensors.index{infix}.json")
            if any((self.path / component / name).is_file() for name in names):
                return variant
        raise ModelError(f"{self.path / component} has no {stem}.safetensors; download or convert the weights.")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of this folder. Raises ModelError if it is damaged."""
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.path / name} is no readable JSON ({error}); fetch the file again.") from error
        if not isinstance(value, dict):
            raise ModelError(f"{self.path / name} must hold a JSON object; fetch the file again.")
        return value

    def _refuse_unsafe_files(self) -> None:
        for file in sorted(self.path.rglob("*")):
            if file.suffix.lower() in UNSAFE:
                what = "program code" if file.suffix.startswith(".py") else "pickled weights, which can run code"
                raise ModelError(f"{file} is {what}; convert weights to safetensors and remove the file.")

    def _read_index(self) -> dict[str, Any]:
        if not (self.path / "model_index.json").is_file():
            raise ModelError(
                f"{self.path} is not in diffusers' layout (it has no model_index.json); "
                "convert single-file checkpoints with StableDiffusionPipeline.from_single_file and save_pretrained."
            )
        return self.read_json("model_index.json")

    def _family(self) -> Family:
        name = self.index.get("_class_name")
        if not isinstance(name, str) or name not in FAMILIES:
            raise ModelError(f"{self.path} holds a {name}; supported families: {', '.join(FAMILIES)}.")
        return FAMILIES[name]

    def _check_classes(self) -> None:
        for component, allowed in self.family.components.items():
            entry = self.index.get(component)
            if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
                raise ModelError(f"model_index.json in {self.path} names no {component}; fetch the whole model.")
            library, cls = entry
            if library not in ("diffusers", "transformers") or (allowed and cls not in allowed):
                supported = " or ".join(allowed) or "those of diffusers"
                raise ModelError(f"The {component} of {self.path} is a {library}.{cls}; supported: {supported}.")
            if not (self.path / component).is_dir():
                raise ModelError(f"{self.path} has no folder {component}; fetch the whole model.")

    def _loaded_files(self) -> list[Path]:
        parts = self.family.components
        inside = [file for component in parts for file in (self.path / component).iterdir() if file.is_file()]
        optional = [file for file in (self.path / DEFAULTS,) if file.is_file()]
        return [self.path / "model_index.json", *optional, *inside]

    def _check_manifest(self) -> None:
        """Hold the loaded files against sha256sums.txt, where the folder has one."""
        if not (self.path / MANIFEST).is_file():
            return
        expected = _read_manifest(self.path / MANIFEST)
        for name, digest in self.hashes.items():
            if expected.get(name) != digest:
                problem = "differs from" if name in expected else "is not listed in"
                raise ModelError(f"{self.path / name} {problem} {MANIFEST}; fetch the model again.")
        for name in sorted(expected.keys() - self.hashes.keys()):
            if not (self.path / name).is_file():
                raise ModelError(f"{self.path / name} is listed in {MANIFEST} but missing; fetch the model again.")


def _read_manifest(path: Path) -> dict[str, str]:
    """`hash  path` lines, as sha256sum writes and checks them."""
    entries = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition(" ")
        if len(digest) != 64 or not name:
            raise ModelError(f"{path} has a line that sha256sum would not write; fetch the model again.")
        entries[name[1:].removeprefix("./")] = digest.lower()
    return entries


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
