"""Snapshots as bytes: what comes back is what went in, and nothing else comes back."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from app.contract.messages.trajectory import Trajectory
from tests.engine.driving import drain, engine_of, wish
from tests.engine.parking import assert_same, begun, finished, undisturbed
from tests.engine.test_selection import Brightest
from worker.engine.engine import Engine
from worker.engine.events import Parked
from worker.engine.request import Request
from worker.engine.snapshot import Snapshot, Unfit
from worker.models.bundle import Bundle
from worker.snapshot_file import HEADER, read, written

SAME = {"model_hash": "f" * 64, "dtype": "float32"}

REQUESTS = [
    wish("many registers", reproducible=True, scheduler="unipc", num_images=2),
    wish("chosen", reproducible=True, num_images=1, best_of=3, seed=3),
    wish("kept", reproducible=True, trajectory=Trajectory(every=2), preview_every=2, keep_previews=True),
]


def make(bundle: Bundle) -> Engine:
    return engine_of(bundle, seats=2, judge=Brightest())


@pytest.fixture(scope="module")
def snapshots(epsilon_bundle: Bundle) -> dict[str, Snapshot]:
    events = begun(partial(make, epsilon_bundle), REQUESTS, {}, steps=14)
    parked = {event.request_id: event.snapshot for event in events if isinstance(event, Parked)}
    found = {id: snapshot for id, snapshot in parked.items() if snapshot is not None}
    assert found
    return found


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.id)
def test_what_was_written_is_gone_on_from(epsilon_bundle: Bundle, request_: Request) -> None:
    events = begun(partial(make, epsilon_bundle), [request_], {}, steps=4)
    [parked] = [event for event in events if isinstance(event, Parked)]
    assert parked.snapshot is not None
    again = read(written(parked.snapshot, SAME), SAME)
    assert again.evaluations == parked.snapshot.evaluations > 0
    engine = make(epsilon_bundle)
    engine.submit(request_, again)
    assert_same(finished(drain(engine)), undisturbed(partial(make, epsilon_bundle), request_))


def any_of(snapshots: dict[str, Snapshot]) -> Snapshot:
    return next(iter(snapshots.values()))


def test_it_is_as_large_as_its_numbers(snapshots: dict[str, Snapshot]) -> None:
    """A register of the tiny model has 4 KiB, a generator's state 5 kB."""
    snapshot = any_of(snapshots)
    standing = [each.standing for each in snapshot.samples if each.standing is not None]
    numbers = sum(each.registers.nbytes + each.chance.nbytes for each in standing)
    numbers += sum(
        each.began.nbytes + (0 if each.picture is None else each.picture.nbytes) for each in snapshot.samples
    )
    assert numbers < len(written(snapshot, SAME)) < numbers + 20_000


@pytest.mark.parametrize(
    ("drawn_with", "reason"),
    [(SAME | {"model_hash": "0" * 64}, "another model_hash"), (SAME | {"dtype": "float16"}, "another dtype")],
)
def test_what_was_drawn_with_something_else_is_refused(
    snapshots: dict[str, Snapshot], drawn_with: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unfit, match=reason):
        read(written(any_of(snapshots), SAME), drawn_with)


def test_another_version_is_refused(snapshots: dict[str, Snapshot]) -> None:
    with pytest.raises(Unfit, match="version 99"):
        read(written(replace(any_of(snapshots), version=99), SAME), SAME)


@given(data=st.data())
def test_damaged_bytes_are_refused_or_are_a_snapshot(snapshots: dict[str, Snapshot], data: st.DataObject) -> None:
    """Never another error. That no byte is another one is what their hash is for."""
    whole = bytearray(written(any_of(snapshots), SAME))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        whole[data.draw(st.integers(0, min(len(whole), 3_000) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(Unfit):
        assert isinstance(read(bytes(whole), SAME), Snapshot)


@pytest.mark.parametrize("change", [{"samples": 3}, {"samples": [{}]}, {"nothing": 1}, {"samples": [None]}])
def test_a_header_that_says_something_else_is_refused(snapshots: dict[str, Snapshot], change: dict[str, Any]) -> None:
    data = written(any_of(snapshots), SAME)
    said = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][HEADER])
    said["job"] |= change
    with pytest.raises(Unfit):
        read(save(load(data), metadata={HEADER: json.dumps(said)}), SAME)


def test_a_pickle_is_never_read(snapshots: dict[str, Snapshot], tmp_path: Any) -> None:
    torch.save({"job": 1}, tmp_path / "file")
    with pytest.raises(Unfit):
        read((tmp_path / "file").read_bytes(), SAME)


def test_what_no_file_can_have_is_said(snapshots: dict[str, Snapshot]) -> None:
    with pytest.raises(TypeError, match="object"):
        written(replace(any_of(snapshots), passes=[{"solver": object()}]), SAME)
