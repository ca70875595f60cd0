"""Ways to spoil a model folder: each takes the folder and breaks one thing in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"

Spoiling = Callable[[Path], object]
Header = dict[str, Any]


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def remove(*names: str) -> Spoiling:
    def spoil(folder: Path) -> None:
        for name in names:
            target = folder / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return spoil


def write(name: str, content: str | bytes = "") -> Spoiling:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def configure(name: str, **changes: Any) -> Spoiling:
    return lambda folder: edit_json(folder / name, **changes)


def forget(name: str, *keys: str) -> Spoiling:
    def spoil(folder: Path) -> None:
        said = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in said.items() if key not in keys}))

    return spoil


def retensor(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Spoiling:
    """Write the file again with what `change` made of its tensors."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return spoil


def drop_a_tensor(file: str, ending: str) -> Spoiling:
    return retensor(file, lambda tensors: tensors.pop(next(name for name in tensors if name.endswith(ending))))


def reheader(name: str, change: Callable[[Header], object], *, length: int = 0) -> Spoiling:
    """Another header before the same data; `length` is added to what the file says its header has."""

    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        change(header)
        written = json.dumps(header).encode()
        start = (len(written) + length).to_bytes(8, "little")
        (folder / name).write_bytes(start + written + content[8 + size :])

    return spoil


def cut_short(name: str, *, leave: int) -> Spoiling:
    """`leave` bytes, or all but so many if it is negative."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:leave])


def link(name: str, target: str) -> Spoiling:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return spoil


def pipe(name: str) -> Spoiling:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def folder_instead(name: str) -> Spoiling:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def shard(name: str, then: Callable[[Path, Header], object] = lambda folder, index: None) -> Spoiling:
    """The weights in two files and an index, as large models have them; `then` may spoil that."""

    def spoil(folder: Path) -> None:
        file = folder / name
        tensors = load_file(file)
        file.unlink()
        half, files = len(tensors) // 2, {}
        for number, names in enumerate((list(tensors)[:half], list(tensors)[half:]), 1):
            shard_name = f"{file.stem}-0000{number}-of-00002.safetensors"
            save_file({key: tensors[key] for key in names}, file.with_name(shard_name), metadata={"format": "pt"})
            files |= dict.fromkeys(names, shard_name)
        index = {"metadata": {"total_size": 1}, "weight_map": files}
        then(file.parent, index)
        file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))

    return spoil


def both(*spoilings: Spoiling) -> Spoiling:
    def spoil(folder: Path) -> None:
        for spoiling in spoilings:
            spoiling(folder)

    return spoil
