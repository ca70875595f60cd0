"""Files that would run a program if they were opened, inside the parts that are loaded.

Nothing is opened that is not safetensors, JSON or tokenizer text, so what lies elsewhere in the folder (a safety
checker that nobody asked for, a checkpoint at its root, the hooks of a clone) may be anything.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from worker.models.folder import WEIGHTS, ModelFolder
from worker.models.scorer_folder import ScorerFolder
from worker.models.single_file import PICKLED

CODE = (".py", ".pyc", ".so")


def unsafe_faults(folder: ModelFolder) -> list[str]:
    """One sentence about all such files, with the one command that helps; none where there are none."""
    found = _unsafe_files([folder.part(component) for component in folder.components])
    only_pickled = [part for part in WEIGHTS if _has_only(folder.part(part), found)]
    return _sentence(
        folder.path,
        found,
        names=[folder.relative(file) for file in found],
        where=", in parts that are loaded",
        convert=_convert(folder) if only_pickled else "",
    )


def unsafe_faults_of_scorer(folder: ScorerFolder) -> list[str]:
    """The same of a folder that is one part."""
    found = _unsafe_files([folder.path])
    convert = _convert_scorer(folder, found) if _has_only(folder.path, found) else ""
    return _sentence(folder.path, found, names=[file.name for file in found], convert=convert)


def _unsafe_files(parts: Iterable[Path]) -> list[Path]:
    return [file for part in parts if part.is_dir() for file in sorted(part.iterdir()) if _is_unsafe(file)]


def _sentence(path: Path, found: list[Path], *, names: Sequence[str], convert: str, where: str = "") -> list[str]:
    if not found:
        return []
    return [
        f"{path} holds pickled weights or program code, which can run anything when opened{where}: "
        f"{', '.join(names)}; {convert or _remove(found)}."
    ]


def _is_unsafe(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix == ".bin" and file.with_suffix(".xml").exists():
        return False  # OpenVINO's weights: bare numbers, and nobody opens them
    return suffix in (*PICKLED, *CODE)


def _has_only(path: Path, found: list[Path]) -> bool:
    """Has the part at `path` pickled weights and no others?"""
    return any(file.parent == path and file.suffix in PICKLED for file in found) and not any(path.glob("*.safetensors"))


def _remove(found: list[Path]) -> str:
    return f"none of them is needed, remove them: rm {' '.join(shlex.quote(str(file)) for file in found)}"


def _convert(folder: ModelFolder) -> str:
    pipeline, path = folder.pipeline.name, str(folder.path)
    source, copy = json.dumps(path), json.dumps(f"{path}-safetensors")  # Python's words too, without single quotes
    command = (
        f"from diffusers import {pipeline} as P; "
        f"P.from_pretrained({source}, use_safetensors=False).save_pretrained({copy})"
    )
    return f"if you trust where it comes from, convert it: python -c {shlex.quote(command)}"


def _convert_scorer(folder: ScorerFolder, found: list[Path]) -> str:
    """Of open_clip's checkpoint the tensors alone are taken: `weights_only` runs nothing."""
    path, cls = folder.path, folder.family
    if folder.layout.kind == "open_clip":
        pickled = next(file for file in found if file.suffix in PICKLED)
        source, copy = json.dumps(str(pickled)), json.dumps(str(path / f"{folder.layout.stem}.safetensors"))
        command = (
            "import torch; from safetensors.torch import save_file; "
            f"save_file(torch.load({source}, weights_only=True), {copy})"
        )
        return f"take its tensors, and remove it then: python -c {shlex.quote(command)}"
    source, copy = json.dumps(str(path)), json.dumps(f"{path}-safetensors")
    command = (
        f"from transformers import AutoProcessor as P, {cls} as M; "
        f"M.from_pretrained({source}).save_pretrained({copy}); P.from_pretrained({source}).save_pretrained({copy})"
    )
    return f"if you trust where it comes from, convert it: python -c {shlex.quote(command)}"
