"""A long job, to be left by the processes that began it and taken up by others."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.system.conftest import Installation, ended
from tests.waiting import until

PARAMETERS = {"prompt": "a red circle on a blue background", "seed": 7, "num_inference_steps": 4}
LONG_PARAMETERS = PARAMETERS | {"num_inference_steps": 100, "num_images": 4}


def begun(client: httpx2.Client) -> dict[str, Any]:
    """A long job that is being drawn."""
    job: dict[str, Any] = client.post("/v1/jobs", json=LONG_PARAMETERS).json()
    until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["status"] == "running")
    return job


def is_taken_up_again(client: httpx2.Client, job: dict[str, Any]) -> None:
    """And called off then: it is long."""
    until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["attempts"] == 2)
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    assert ended(client, job)["status"] == "canceled"


def is_ready(installation: Installation) -> bool:
    with installation.client() as client:
        try:
            return client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False
