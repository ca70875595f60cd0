"""`darkroom models compose`: one model folder from published parts, by a process that has the worker's packages.

Knows how to ask and what to say. Refuses to know what a part is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from app.cli.exits import FAILED, OK, REFUSED
from app.cli.plain import plain


def compose(target: Path, *, decoder: Path, prior: Path, text: Path | None) -> int:
    """Write it, and say where it is or why not. Returns the exit code."""
    parts = [target, decoder, prior, *([text] if text else [])]
    command = [sys.executable, "-m", "worker.compose", *map(str, parts)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        print(f"darkroom models compose: it needs darkroom[worker] ({plain(last[0])})", file=sys.stderr)
        return FAILED
    for fault in answer.get("faults", ()):
        print(f"darkroom models compose: {plain(fault)}", file=sys.stderr)
    if "path" not in answer:
        return REFUSED
    print(
        f"{answer['path']} is whole; its hashes are in sha256sums.txt. Serve it: darkroom up --model {answer['path']}"
    )
    return OK
