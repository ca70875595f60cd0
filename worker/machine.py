"""How much memory this process may have: of the machine, or of the control group that a container or a service is.

Knows /proc/meminfo, the files of cgroups v1 and v2, and glibc's allocator. Knows no torch and no GPU. Beyond a group's
limit the kernel kills without a word, so nobody can wait for an error.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

_FILES = {
    "v2": ("memory.max", "memory.current", "inactive_file", "memory.swap.max"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", ""),
}
"""By version: the limit, what is used, the line of memory.stat with what the kernel gives up when it must, and the
limit of swap. Version 1 counts swap in another way; none is taken to be allowed."""


@dataclass(frozen=True, slots=True)
class Room:
    """In bytes. `most`: beyond it this process cannot grow, whatever else ends; `free`: that it could take now, without
    swap. `of` says what sets the bound, for a sentence."""

    most: float
    free: float
    of: str


def main_memory(root: Path = ROOT) -> Room:
    """What there is of the machine's own memory. `root` is where proc and sys are."""
    told = _meminfo(root)
    if "MemTotal" not in told:  # not Linux: nobody tells what is free
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        return Room(total, total, "this machine")
    swap = told.get("SwapTotal", 0.0)
    machine = Room(told["MemTotal"] + swap, told.get("MemAvailable", told["MemTotal"]), "this machine")
    groups = [
        group for version, folder in _groups(root) for group in _room(folder, version, machine.most, swap) if group
    ]
    tightest = min((machine, *groups), key=lambda room: room.most)
    return Room(tightest.most, min(room.free for room in (machine, *groups)), tightest.of)


def _meminfo(root: Path) -> dict[str, float]:
    """Lines as `MemTotal:       24576000 kB`, in bytes."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return {name: float(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    except (OSError, ValueError, IndexError):
        return {}


def _groups(root: Path) -> Iterator[tuple[str, Path]]:
    """The folders of this process's group and of all that it lies in: each has a limit of its own.

    In a container the path may be one that is only seen from outside; then the group is the root of what is mounted.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            version, mounted = "v2", root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            version, mounted = "v1", root / "sys/fs/cgroup/memory"
        else:
            continue
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            yield version, mounted / folder


def _room(folder: Path, version: str, machine: float, swap: float) -> Iterator[Room]:
    limit_file, used_file, given_up, swap_file = _FILES[version]
    limit = _number(folder / limit_file)
    if limit is None or limit >= machine:  # v1 says "none" with a number near 2^63
        return
    used = _number(folder / used_file) or 0.0
    allowed_swap = min(swap, _number(folder / swap_file, unlimited=swap) or 0.0) if swap_file else 0.0
    free = max(0.0, limit - max(0.0, used - _stat(folder, given_up)))
    yield Room(
        limit + allowed_swap, free, f"the control group {folder.name or '/'}, of memory limit {limit / 1e9:.1f} GB"
    )


def _number(file: Path, *, unlimited: float | None = None) -> float | None:
    try:
        content = file.read_text().strip()
        return unlimited if content == "max" else float(content)
    except (OSError, ValueError):
        return None


def _stat(folder: Path, name: str) -> float:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        return next((float(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0.0)
    except (OSError, ValueError, IndexError):
        return 0.0


def give_back_freed_memory() -> None:
    """What was freed goes back to the system, where the C library keeps it for later: glibc's malloc_trim(3)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
