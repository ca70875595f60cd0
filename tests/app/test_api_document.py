"""docs/api.md: every example is run as it stands, against a gateway whose worker draws what comes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from tests.app.conftest import Running, ScriptedWorker
from tests.app.scorer import ScriptedScorer, scorer_card_of
from tests.app.test_trajectory import succeed_with_steps
from tests.app.webui import drawn
from tests.conftest import IN_CI
from tests.pictures import file_of, noise
from tests.waiting import WAIT_SECONDS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"^```(sh|python|js)\n(.*?)^```", DOCUMENT, re.M | re.S)
COMMANDS = {"sh": ["sh", "-eu", "-c"], "python": [sys.executable, "-c"], "js": ["node", "--input-type=module", "-e"]}
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def drawing(running: Running, worker: ScriptedWorker, redis_client: redis.Redis) -> Iterator[Running]:
    """Whatever is asked for is drawn at once, from pictures as well, and a scorer is there."""
    tasks = ("text-to-image", "image-to-image", "inpainting")
    takes = ("image", "strength", "mask_image", "trajectory")
    worker.card = worker.card.model_copy(update={"takes": takes, "tasks": tasks})
    worker.announce()
    over = threading.Event()

    def draw() -> None:
        while not over.wait(0.02):
            while (claim := worker.ownership.claim(worker.card.name, "w1")) is not None:
                worker.progress(claim, 10)
                end = worker.succeed if claim.spec.trajectory is None else partial(succeed_with_steps, worker)
                end(claim, data=drawn(claim))

    thread = threading.Thread(target=draw)
    thread.start()
    with ScriptedScorer(redis_client, scorer_card_of(worker.card)):
        yield running
    over.set()
    thread.join()


@pytest.mark.parametrize(
    ("language", "code"), EXAMPLES, ids=[f"{n}-{language}" for n, (language, _) in enumerate(EXAMPLES)]
)
def test_the_example_runs(drawing: Running, tmp_path: Path, language: str, code: str) -> None:
    program = {"sh": "curl", "js": "node"}.get(language)
    if program and shutil.which(program) is None:
        assert not IN_CI, f"{program} is needed"
        pytest.skip(f"{program} is not on this machine")
    (tmp_path / "picture.png").write_bytes(file_of(noise()))
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [*COMMANDS[language], code.replace(ADDRESS, drawing.url)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_way_is_shown_in_every_language() -> None:
    ways = re.split(r"^## ", DOCUMENT, flags=re.M)[1:5]
    assert [way.split("\n")[0] for way in ways] == ["Wait", "Ask again", "Follow", "Be called"]
    for way in ways:
        assert {language for language, _ in re.findall(r"^```(sh|python|js)\n(.*?)^```", way, re.M | re.S)} == {
            "sh",
            "python",
            "js",
        }
        assert "replicate" in way
