"""What a queued job says of its place and of its end, beside what then happens."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from app.contract.redis import keys, rq_names
from tests.faults.conftest import Scene
from tests.waiting import until


def test_the_estimate_is_near_what_happens(make_scene: Callable[..., Scene]) -> None:
    """Errors are printed, not judged: on a busy machine they say more of the machine. `pytest -s` shows them."""
    scene, chance = make_scene(), random.Random(3)
    scene.worker("worker0", step=0.02)
    until(lambda: scene.client.get("/readyz").status_code == 200)
    for _ in range(2):
        for job in [scene.send(num_inference_steps=10) for _ in range(8)]:
            scene.ended(job)
    until(lambda: scene.client.get("/v1/models").json()["data"][0]["pace_seconds"])
    scene.redis.set(rq_names.RQ_SUSPENDED, 1)
    jobs = [scene.send(num_inference_steps=chance.randint(5, 15)) for _ in range(60)]
    places = [scene.look(job)["queue"] for job in jobs]
    scene.redis.delete(rq_names.RQ_SUSPENDED)
    began = time.time()
    assert [place["position"] for place in places] == list(range(60))
    assert places == sorted(places, key=lambda place: place["eta_seconds"])
    assert places[-1]["eta_seconds"] > 5 * places[0]["eta_seconds"] > 0
    errors = []
    for job, place in zip(jobs, places, strict=True):
        took = _moment(scene, job, "job.succeeded") - began
        errors.append((place["eta_seconds"] - took) / took)
    sizes = [abs(error) for error in errors]
    bias, middle, worst = statistics.median(errors), statistics.median(sizes), max(sizes)
    print(f"estimates: median error {middle:.0%} (bias {bias:+.0%}), worst {worst:.0%}, n={len(errors)}")


def _moment(scene: Scene, job: dict[str, object], event: str) -> float:
    scene.ended(job)
    entries = scene.redis.xrange(f"{keys.EVENTS}{job['id']}")
    return next(int(at.split("-")[0]) / 1000 for at, fields in entries if fields["event"] == event)  # type: ignore[union-attr]
