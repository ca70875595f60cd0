"""The engine as a worker starts it: solvers compiled in the background, and the size of its steps known.

Measuring that takes seconds, so it is remembered, in one small file for each model on each device. Whatever is wrong
with that file, or with the folder, only costs the measuring.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
import torch

from worker.engine.engine import Engine
from worker.engine.profile import Profile
from worker.models.bundle import Bundle, ModelError
from worker.provenance import provenance_of
from worker.settings import WorkerSettings

log = structlog.get_logger()

COMPILERS = 2
"""Threads that compile solvers, 10 to 500 ms each: a few requests with new schedulers must not queue up."""

LARGEST_FILE = 1 << 16

FILE_VERSION = 2
"""Raised when a profile says more: one that says less is then another file's, and is measured anew."""


def start_engine(
    bundle: Bundle, settings: WorkerSettings, *, on_measured: Callable[[int], None] = lambda rows: None
) -> Engine:
    """An engine, warmed up; `on_measured` hears of each size of a step, in rows, that had to be measured.

    Raises ModelError where the settings ask for graphs that the device has not.
    """
    compiler = ThreadPoolExecutor(COMPILERS, thread_name_prefix="compile")
    try:
        engine = Engine(bundle, seats=settings.seats, compiler=compiler, graphs=settings.graphs)
    except ValueError as error:
        raise ModelError(f"DARKROOM_GRAPHS: {error}.") from error
    circumstances = _circumstances(bundle, settings)
    file = _file(settings.profile_folder or _cache(), circumstances)
    known = recall(file, circumstances)
    profile = engine.warm_up(known, on_measured=on_measured)
    if profile != known:
        remember(file, profile, circumstances)
    return engine


def recall(file: Path, circumstances: Mapping[str, Any]) -> Profile | None:
    """What was measured under the same circumstances, or None: then measure again."""
    try:
        with file.open("rb") as opened:
            content = json.loads(opened.read(LARGEST_FILE))
        if content["circumstances"] != circumstances:
            return None
        measured = content["profile"]
        rows, row_cost = measured["rows"], float(measured["row_cost"])
        rates, seconds = (
            {int(size): float(value) for size, value in measured[name].items()} for name in ("rows_a_second", "seconds")
        )
        decode_seconds, is_complete = float(measured["decode_seconds"]), measured["is_complete"] is True
        if not (rows is None or (isinstance(rows, int) and rows >= 1)) or not row_cost > 0 or not decode_seconds >= 0:
            raise ValueError("impossible values")
        values = (*rates.values(), *seconds.values())
        if rates.keys() != seconds.keys() or not all(0 < value < math.inf for value in values):
            raise ValueError("impossible measurements")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("a profile cannot be read and is measured again", file=str(file), reason=repr(error))
        return None
    return Profile(rows, row_cost, rates, is_complete=is_complete, seconds=seconds, decode_seconds=decode_seconds)


def remember(file: Path, profile: Profile, circumstances: Mapping[str, Any]) -> None:
    """Write it in one piece: another worker of this model may start at the same time."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"circumstances": circumstances, "profile": asdict(profile)}), encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        log.warning(
            "the profile cannot be kept; every start will measure it", folder=str(file.parent), reason=str(error)
        )


def _circumstances(bundle: Bundle, settings: WorkerSettings) -> dict[str, Any]:
    """All that the speed of a step depends on, as far as we know it."""
    facts = asdict(provenance_of(bundle))
    threads = None if bundle.device.type == "cuda" else torch.get_num_threads()
    chosen = {"threads": threads, "seats": settings.seats, "graphs": settings.graphs, "layout": bundle.layout}
    return facts | chosen | {"version": FILE_VERSION}


def _file(folder: Path, circumstances: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(circumstances, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:32]}.json"


def _cache() -> Path:
    """As the XDG Base Directory Specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkroom" / "profiles"
