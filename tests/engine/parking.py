"""Requests that are taken out of an engine in the middle and go on in another one, and the same left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.engine.driving import drain, last_events
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Finished, Parked, Started
from worker.engine.request import Request
from worker.engine.snapshot import Snapshot

Kept = dict[str, Snapshot | None]


def undisturbed(make: Callable[[], Engine], *requests: Request) -> dict[str, Finished]:
    engine = make()
    for request in requests:
        engine.submit(request)
    return finished(drain(engine))


def finished(events: list[EngineEvent]) -> dict[str, Finished]:
    last = last_events(events)
    assert all(isinstance(each, Finished) for each in last.values()), last
    return {id: each for id, each in last.items() if isinstance(each, Finished)}


def begun(make: Callable[[], Engine], requests: Sequence[Request], kept: Kept, *, steps: int) -> list[EngineEvent]:
    """All events of an engine that takes so many steps with them, and of which they are then taken."""
    engine, events = make(), list[EngineEvent]()
    for request in requests:
        engine.submit(request, kept.get(request.id))
    while steps and not engine.idle:
        engine.wait_for_work(0.2)
        events += engine.step()
        steps -= engine.last_batch > 0
    for request in requests:
        engine.park(request.id)
    events += engine.step()
    assert engine.idle
    assert engine.free_seats == engine.seats
    return events


def moved(make: Callable[[], Engine], *requests: Request, after: Sequence[int]) -> dict[str, Finished]:
    """What they end with where they are taken to another engine after so many steps in each. Fails where an evaluation
    is taken twice, or one is left out."""
    events, kept = list[EngineEvent](), Kept()
    for steps in after:
        open_ = [request for request in requests if request.id not in last_events(events)]
        fresh = begun(make, open_, kept, steps=steps)
        kept = {event.request_id: event.snapshot for event in fresh if isinstance(event, Parked)}
        events += fresh
    engine = make()
    for id, snapshot in kept.items():
        engine.submit(next(request for request in requests if request.id == id), snapshot)
    fresh = drain(engine)
    resumed = {event.request_id: event.resumed for event in fresh if isinstance(event, Started)}
    assert resumed == {id: snapshot.evaluations if snapshot else 0 for id, snapshot in kept.items()}
    return finished(events + fresh)


def assert_same(ours: dict[str, Finished], theirs: dict[str, Finished]) -> None:
    """To the bit, and in all that is said of them."""
    assert ours.keys() == theirs.keys()
    for id, one in ours.items():
        other = theirs[id]
        assert [each.seed for each in one.images] == [each.seed for each in other.images], id
        assert one.candidates == other.candidates, id
        assert one.warnings == other.warnings, id
        assert one.steps == other.steps, id
        for ours_, theirs_ in zip(one.images, other.images, strict=True):
            assert np.array_equal(ours_.pixels, theirs_.pixels), id
            assert (ours_.score, ours_.nsfw, ours_.is_rescued) == (theirs_.score, theirs_.nsfw, theirs_.is_rescued), id
            assert ours_.found.keys() == theirs_.found.keys(), id
            assert all(np.array_equal(vector, theirs_.found[name]) for name, vector in ours_.found.items()), id
            for kept, other_kept in zip(ours_.recordings, theirs_.recordings, strict=True):
                assert kept.whole == other_kept.whole == list(range(len(kept.moments))), id
                assert kept.moments == other_kept.moments, id
                for series, latents in kept.latents.items():
                    for place in kept.places.values():
                        if kept.arrived[series][place]:
                            assert np.array_equal(latents[place], other_kept.latents[series][place]), (id, place)
                assert kept.decoded.keys() == other_kept.decoded.keys(), id
                assert all(np.array_equal(each, other_kept.decoded[at]) for at, each in kept.decoded.items()), id
