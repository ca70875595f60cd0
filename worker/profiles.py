"""The engine as a worker starts it: solvers compiled in the background, and the size of its steps known.

Measuring that takes seconds, so it is remembered, for each model on each device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
import torch

from worker.compile_cache import keep_compiled
from worker.engine.compiled import CannotCompile, Compile, is_to_compile
from worker.engine.costs import Profile
from worker.engine.engine import Engine
from worker.engine.family import Family
from worker.engine.judging import Judge
from worker.engine.profile import NOBODY, Told
from worker.models.bundle import Bundle, ModelError
from worker.provenance import provenance_of
from worker.remembered import Remembered
from worker.settings import WorkerSettings

log = structlog.get_logger()

COMPILERS = 2
"""Threads that compile solvers, 10 to 500 ms each: a few requests with new schedulers must not queue up."""

FILE_VERSION = 2
"""Raised when a profile says more: one that says less is then another file's, and is measured anew."""


def start_engine(
    bundle: Bundle,
    family: Family,
    settings: WorkerSettings,
    *,
    judge: Judge | None = None,
    told: Told = NOBODY,
) -> Engine:
    """An engine around the bundle's family, warmed up.

    Raises ModelError where the settings ask for graphs that the device has not, or for a compiled model that cannot be.
    """
    remembered = Remembered(settings.profile_folder, "profile", _circumstances(bundle, settings))
    compile = _compile_as_possible(settings.compile, bundle.device, remembered.folder)
    compiler = ThreadPoolExecutor(COMPILERS, thread_name_prefix="compile")
    try:
        engine = Engine(
            family,
            seats=settings.seats,
            compiler=compiler,
            graphs=settings.graphs,
            compile=compile,
            checker=bundle.checker,
            judge=judge,
        )
    except ValueError as error:
        raise ModelError(f"DARKROOM_GRAPHS: {error}.") from error
    known = remembered.recall(_believed)
    try:
        profile = engine.warm_up(known, told=told)
    except CannotCompile as error:
        raise ModelError(f"DARKROOM_COMPILE: {error}; auto goes on without, off does not try.") from error
    if profile != known:
        remembered.keep(asdict(profile))
    return engine


def _compile_as_possible(wanted: Compile, device: torch.device, folder: Path) -> Compile:
    """What that setting comes to. Raises ModelError where it is `on` and compiled code cannot be kept in the folder."""
    if not is_to_compile(wanted, device):
        return "off"
    try:
        keep_compiled(folder)
    except ModelError as error:
        if wanted == "on":
            raise
        log.warning("the model is run as it is, not compiled", reason=str(error))
        return "off"
    return wanted


def _believed(measured: Mapping[str, Any]) -> Profile:
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
    return Profile(
        rows,
        row_cost,
        rates,
        is_complete=is_complete,
        seconds=seconds,
        decode_seconds=decode_seconds,
        # Files from before do not say.
        is_compiled=measured.get("is_compiled", False) is True,
    )


def _circumstances(bundle: Bundle, settings: WorkerSettings) -> dict[str, Any]:
    """All that the speed of a step depends on, as far as we know it."""
    facts = asdict(provenance_of(bundle))
    threads = None if bundle.device.type == "cuda" else torch.get_num_threads()
    chosen = {"threads": threads, "seats": settings.seats, "graphs": settings.graphs, "layout": bundle.layout}
    return facts | chosen | {"version": FILE_VERSION}
