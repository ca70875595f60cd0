"""An upgrade and the way back, on one data folder: `python -m tests.system.both_ways --before COMMIT`.

Takes the files of the commit out of git, and starts by turns the version of then, this one, and the one of then again.
Each has to show all jobs that were drawn before it with their pictures, and to draw one more. Says what held, and ends
with 1 if something did not. The packages that are installed serve both. No test of `make test`: it needs git's history.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2

from tests.system.conftest import Installation, drawn

ROOT = Path(__file__).parents[2]
PARAMETERS = {"prompt": "a red circle on a blue background", "num_inference_steps": 4}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="COMMIT")
    before = parser.parse_args().before
    with tempfile.TemporaryDirectory(prefix="both-ways-") as name:
        tree, data = Path(name) / "before", Path(name) / "data"
        packed = subprocess.run(["git", "archive", before], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(tree, filter="data")
        jobs: list[dict[str, Any]] = []
        turns = {f"{before}, at first": tree, "this version": ROOT, f"{before}, again": tree}
        return max([turn(what, source, data, jobs) for what, source in turns.items()])


def turn(what: str, source: Path, data: Path, jobs: list[dict[str, Any]]) -> int:
    """One version over the folder. Adds the job that it drew; 1 if anything was not as it has to be."""
    installation = Installation(data, environment={"PYTHONPATH": str(source)}, cwd=source)
    try:
        installation.start_and_wait()
        with installation.client() as client:
            faults = [f"{job['id']}: {fault}" for job in jobs for fault in faults_of(client, job)]
            jobs.append(drawn(client, PARAMETERS | {"seed": len(jobs)}))
            faults += faults_of(client, jobs[-1])
        installation.stop()
    finally:
        installation.kill_everything()
    print(f"{what}: {'; '.join(faults) or f'shows {len(jobs) - 1} jobs of before, and drew one'}", flush=True)
    return 1 if faults else 0


def faults_of(client: httpx2.Client, then: dict[str, Any]) -> list[str]:
    """What of a job is not as it was."""
    answer = client.get(f"/v1/jobs/{then['id']}")
    if answer.status_code != 200:
        return [f"{answer.status_code} {answer.text}"]
    now = answer.json()
    faults = [name for name in ("status", "model", "created_at", "ended_at") if now[name] != then[name]]
    if now["status"] != "succeeded":
        faults.append(f"{now['status']}, {now['error']}")
    for image in now["images"]:
        picture = client.get(image["url"])
        if hashlib.sha256(picture.content).hexdigest() != image["sha256"]:
            faults.append(f"picture {picture.status_code}")
    if then["id"] not in {job["id"] for job in client.get("/v1/jobs").json()["data"]}:
        faults.append("not in the list")
    return faults


if __name__ == "__main__":
    sys.exit(main())
