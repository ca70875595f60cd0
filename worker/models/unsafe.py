"""Files that would run a program if they were opened, inside the parts that are loaded.

Nothing is opened that is not safetensors, JSON or tokenizer text, so what lies elsewhere in the folder (a safety
checker that nobody asked for, a checkpoint at its root, the hooks of a clone) may be anything.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from worker.models.folder import WEIGHTS, ModelFolder
from worker.models.single_file import PICKLED

CODE = (".py", ".pyc", ".so")


def unsafe_faults(folder: ModelFolder) -> list[str]:
    """One sentence about all such files, with the one command that helps; none where there are none."""
    parts = [folder.part(component) for component in folder.components]
    found = [file for part in parts if part.is_dir() for file in sorted(part.iterdir()) if _is_unsafe(file)]
    if not found:
        return []
    names = ", ".join(folder.relative(file) for file in found)
    only_pickled = [part for part in WEIGHTS if _has_only(folder, part, found)]
    return [
        f"{folder.path} holds pickled weights or program code, which can run anything when opened, in parts that are "
        f"loaded: {names}; {_convert(folder) if only_pickled else _remove(found)}."
    ]


def _is_unsafe(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix == ".bin" and file.with_suffix(".xml").exists():
        return False  # OpenVINO's weights: bare numbers, and nobody opens them
    return suffix in (*PICKLED, *CODE)


def _has_only(folder: ModelFolder, part: str, found: list[Path]) -> bool:
    """Has the part pickled weights and no others?"""
    path = folder.path / part
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
