"""A worker that must go tells its collector what it was doing."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.conftest import Scene
from tests.system.separate import listener
from tests.waiting import until


def test_a_worker_that_lost_its_device_sends_its_spans(make_scene: Callable[..., Scene]) -> None:
    with listener() as collector:
        # Nothing is sent by the clock: what arrives was sent at the end.
        scene = make_scene(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="600000")
        pid = scene.worker()
        until(lambda: scene.client.get("/readyz").status_code == 200)
        done = scene.send()
        scene.ended(done)
        lost = scene.send(prompt="a lost device")
        scene.gone(pid)
        attempts = {
            span["attributes"]["darkroom.job.id"]: span["attributes"]
            for span in collector.spans()
            if span["name"] == "process generate-starter"
        }
    assert attempts[done["id"]]["darkroom.outcome"] == "finished"
    assert attempts[lost["id"]]["error.type"] == "device-lost"
