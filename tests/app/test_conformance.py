"""The OpenAPI is the API: schemathesis sends what it allows and what it forbids, and finds nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.scorer import ScriptedScorer, scorer_card_of
from tests.app.test_guard import KEY
from tests.app.test_jobs import PARAMETERS

CONFIG = """
[checks]
# What a model can draw (multiples of a side, the budget of work) and what a text says are not in any schema.
# OpenAI's clients expect 400 for that.
positive_data_acceptance.expected-statuses = ["2xx", "3xx", 400, 401, 403, 404, 409, 410, 422, 429]
"""

BRIEFLY = """
# Every boundary of a job's parameters is met at POST /v1/jobs, of an image's form at its variations, of a prediction at
# its other route: these would be half of all requests. Random ones are sent here as well; and where there is time, all.
[[operations]]
include-name = ["POST /v1/images/edits", "POST /v1/images/generations", "POST /v1/models/{owner}/{name}/predictions"]
phases.coverage.enabled = false
"""

SECONDS = os.environ.get("DARKROOM_TEST_CONFORMANCE_SECONDS")
"""How long to look. The run that finds rare things takes minutes: `make fuzz`."""

SEED = os.environ.get("DARKROOM_TEST_CONFORMANCE_SEED", "7")

EXAMPLES = 1
"""Of each operation, where no time is given: a number, because how many fit into a time depends on the machine."""


@pytest.fixture
def busy(gateway_with: OneGateway, worker: ScriptedWorker, redis_client: redis.Redis) -> Iterator[Running]:
    """A gateway with keys, a worker that draws whatever comes, at once, and a scorer that answers whatever is asked."""
    worker.announce()
    over = threading.Event()

    def draw() -> None:
        while not over.wait(0.02):
            worker.announce()
            while (claim := worker.ownership.claim(worker.card.name, "w1")) is not None:
                worker.succeed(claim)

    drawing = threading.Thread(target=draw)
    drawing.start()
    # A body of which half is missing is told apart from a slow one after this time.
    options = {"api_keys": f"ann:{KEY}", "tenant_limit": 100_000, "queue_limit": 100_000, "body_seconds": 5}
    with ScriptedScorer(redis_client, scorer_card_of(worker.card)), gateway_with(**options) as running:
        running.client.headers["Authorization"] = f"Bearer {KEY}"
        running.client.post("/v1/jobs", json=PARAMETERS).raise_for_status()
        yield running
    over.set()
    drawing.join()


@pytest.mark.timeout(int(SECONDS or 0) * 3 + 600)
def test_schemathesis_finds_nothing(busy: Running, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG if SECONDS else CONFIG + BRIEFLY)
    command = [
        str(Path(sys.executable).with_name("st")), "run", f"{busy.url}/openapi.json",
        "--header", f"Authorization: Bearer {KEY}", "--checks", "all", "--seed", SEED,
        "--continue-on-failure", "--no-color", "--report-dir", str(tmp_path), "--generation-database", "none",
    ]  # fmt: skip
    command += ["--max-time", SECONDS] if SECONDS else ["--max-examples", str(EXAMPLES)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-20_000:]
    found = re.search(r"(\d+) generated, (\d+) passed", said)
    assert found, said[-20_000:]
    print(f"{found[0]} with seed {SEED}")
    assert found[1] == found[2]
    assert int(found[1]) > 0
