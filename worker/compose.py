"""`python -m worker.compose TARGET DECODER PRIOR [TEXT]`: a whole model from its parts, and what came of it as one JSON
object on standard output: its `path` and `sha256`, or `faults`.

For `darkroom models compose`, which may not import this package.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from worker.models.errors import ModelError


def composed(target: Path, decoder: Path, prior: Path, text: Path | None = None) -> dict[str, Any]:
    """What to say of it."""
    try:
        from worker.models.compose import compose

        folder = compose(target, decoder=decoder, prior=prior, text=text)
    except (ModelError, OSError) as error:
        return {"faults": error.faults if isinstance(error, ModelError) else (str(error),)}
    return {"path": str(folder.path), "sha256": folder.sha256}


if __name__ == "__main__":
    # Standard output is the answer: what is logged on the way, by whomever, goes to the other stream.
    with redirect_stdout(sys.stderr):
        answer = composed(*map(Path, sys.argv[1:]))
    json.dump(answer, sys.stdout)
