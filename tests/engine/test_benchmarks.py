"""Benchmarks that compute in one process, run on a tiny model: they go through, and their file has the tables that the
module declares. What they say of this machine is no business of a test's."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import bfloat16, deadlines, edits, engine, fewer, fewer_looks, gateway, kandinsky, loras, reclaim, trace
from benchmarks.gaps import GAPS
from benchmarks.gpu import arrivals, speed
from benchmarks.gpu.run import NOTES, Run
from benchmarks.ports import PORTS, own_share
from benchmarks.report import Column, Figures, Report
from tests.engine.tiny_models import SIDE
from worker.models.bundle import Bundle

Tables = dict[str, dict[str, Column]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figures]:
    """Calls a benchmark's `main` with these words, and reads the file that it wrote."""

    def call(module: ModuleType, *words: str) -> Figures:
        file = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", [module.__name__, *words, "--json", str(file)])
        module.main()
        return Figures.read(file)

    return call


def assert_shape(found: Figures, tables: Tables) -> None:
    assert {name: table.columns for name, table in found.tables.items()} == tables
    assert all(table.rows for table in found.tables.values())


@pytest.fixture
def tiny(epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """In place of the bundled model, and of the UNet in the shape of Stable Diffusion's."""
    monkeypatch.setattr(engine, "ENDLESS", 20)
    for module in (engine, trace, loras, edits, fewer, fewer_looks, bfloat16):
        if hasattr(module, "load"):
            monkeypatch.setattr(module, "load", lambda *args, **options: epsilon_bundle)
        if hasattr(module, "sd_shaped"):
            monkeypatch.setattr(module, "sd_shaped", lambda bundle: bundle)
    return epsilon_bundle


def test_bfloat16(tiny: Bundle, run: Callable[..., Figures]) -> None:
    """The tiny model twice, in one type: the pictures are the same."""
    found = run(bfloat16, "--pairs", "1", "--steps", "2", "--batches", "1", "--schedulers", "dpmpp_2m")
    assert_shape(found, {"steps": bfloat16.STEPS, "pictures": bfloat16.PICTURES})
    assert [record["mean"] for record in found.tables["pictures"].records()] == [0]


def test_engine(tiny: Bundle, run: Callable[..., Figures]) -> None:
    found = run(engine, "--pairs", "1", "--rounds", "1", "--steps", "2", "--batches", "1", "--schedulers", "dpmpp_2m")
    assert_shape(found, {"lone": engine.LONE, "steps": engine.STEPS})
    assert [record["rows"] for record in found.tables["steps"].records()] == [2, 2]


def test_trace(tiny: Bundle, run: Callable[..., Figures], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "CALIBRATION", 2)
    monkeypatch.setattr(trace, "STEPS", {2: 1})
    found = run(trace, "--seconds", "0", "--clock", "cpu")
    assert_shape(found, {"mixed": trace.MIXED, "gaps": GAPS})
    ways = ["engine", "one after the other", "static batches"]
    assert [record["way"] for record in found.tables["mixed"].records()] == 3 * ways
    assert [record["ratio"] for record in found.tables["mixed"].records(way="engine")] == [1, 1, 1]


def test_loras(tiny: Bundle, run: Callable[..., Figures]) -> None:
    assert_shape(run(loras, "--samples", "3", "--rounds", "1"), {"steps": loras.STEPS})


def test_fewer(tiny: Bundle, run: Callable[..., Figures], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fewer, "WAYS", {"plain": {}, "guidance_end 0.5": {"guidance_end": 0.5}})
    assert_shape(run(fewer, "--samples", "1", "--rounds", "1", "--steps", "2"), {"steps": fewer.STEPS})


def test_fewer_looks(tiny: Bundle, run: Callable[..., Figures], tmp_path: Path) -> None:
    found = run(
        fewer_looks, "--prompts", "1", "--categories", "shape", "--ways", "plain", "cache 2", "--out", str(tmp_path)
    )
    assert_shape(found, {"looks": fewer_looks.LOOKS})
    # The first is compared with, so it has no distance.
    assert [record["psnr"] is None for record in found.tables["looks"].records()] == [True, False]


def test_edits(tiny: Bundle, run: Callable[..., Figures]) -> None:
    found = run(edits, "--samples", "3", "--rounds", "1", "--pairs", "1", "--steps", "4", "--scheduler", "ddim")
    assert_shape(found, {"steps": edits.STEPS, "whole": edits.WHOLE})


def test_deadlines(tiny: Bundle, run: Callable[..., Figures], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "STEPS", {"interactive": (4,), "batch": (6,)})
    found = run(deadlines, "--jobs", "5", "--seats", "2", "--side", str(SIDE), "--reproducible", "1")
    assert_shape(found, {"together": deadlines.TOGETHER, "pictures": deadlines.PICTURES})
    assert [record["needed"] for record in found.tables["together"].records()] == [1.0] * 3


def test_gateway(run: Callable[..., Figures], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it starts is tried elsewhere; here a process that imports nothing stands for it."""
    monkeypatch.setattr(gateway, "GATEWAY", "pass")
    monkeypatch.setattr(gateway, "SKELETON", "pass")
    assert_shape(run(gateway, "--rounds", "1"), {"start": gateway.START})


def test_what_cannot_be_run_here_keeps_its_figures(tmp_path: Path) -> None:
    """A worker that is killed again and again, and a model of ten gigabytes."""
    file = tmp_path / "figures.json"
    reclaim.show([{"queued again": 0.1, "next worker ready": 4.0, "taken up": 4.1}], Report("reclaim", file))
    assert_shape(Figures.read(file), {"waits": reclaim.WAITS})
    with kandinsky._measured(Report("kandinsky", file), "load"):
        pass
    assert_shape(Figures.read(file), {"stages": kandinsky.STAGES})


def test_parts_for_a_gpu(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(tiny, name="sd")
    monkeypatch.setattr(arrivals, "full_size", lambda *args: small)
    monkeypatch.setattr(trace, "STEPS", {2: 1})
    file = tmp_path / "figures.json"
    part = Run(argparse.Namespace(device="cpu", small=True, minutes=1_000.0, part="speed", json=file))
    arrivals._trace(part)
    speed.by_size(part, small, "sd eager", "off", (2,))
    part.note("bits", same=[True, False])
    assert_shape(Figures.read(file), {"mixed": trace.MIXED, "steps": speed.STEPS, "notes": NOTES})


def test_processes_beside_each_other_are_given_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that two of them were given is a server that cannot start."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "4")
    given: list[int] = []
    for number in range(4):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        given += own_share()
    assert sorted(given) == list(PORTS)
