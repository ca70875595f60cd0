"""The walls between the rooms, read from the import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]

HEAVY = {"torch", "diffusers", "transformers", "safetensors", "accelerate", "numpy"}
OUTSIDE = {"redis", "rq", "fastapi", "starlette", "httpx2", "obstore"}
MAY_KNOW_RQ = ("app/contract/redis/rq_job.py", "worker/intake.py", "app/webhooks/")
MAX_LINES = 350


def rooms() -> list[str]:
    files = [path for room in ("app", "worker") for path in (HOUSE / room).rglob("*.py")]
    return sorted(str(path.relative_to(HOUSE)) for path in files)


def imports(file: str) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse((HOUSE / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def strangers(file: str) -> set[str]:
    """Imports of `file` that a wall forbids."""
    names = {name: name.split(".")[0] for name in imports(file)}
    forbidden: set[str] = set()
    if file.startswith("app/"):
        forbidden |= {name for name, top in names.items() if top in HEAVY | {"worker"}}
    if file.startswith("app/contract/"):
        others = ("fastapi", "starlette", "uvicorn", "httpx2", "typer")
        forbidden |= {name for name, top in names.items() if top in others}
        forbidden |= {name for name, top in names.items() if top == "app" and not name.startswith("app.contract")}
    if file.startswith("worker/"):
        forbidden |= {name for name, top in names.items() if top == "app" and not _is_hatch(name)}
    if file.startswith(("worker/engine/", "worker/models/")):
        forbidden |= {name for name, top in names.items() if top in OUTSIDE}
    if not file.startswith(MAY_KNOW_RQ):
        forbidden |= {name for name, top in names.items() if top == "rq"}
    return forbidden


def _is_hatch(name: str) -> bool:
    return name.startswith("app.contract") or name == "app.__version__"


@pytest.mark.parametrize("file", rooms())
def test_no_import_goes_through_a_wall(file: str) -> None:
    assert strangers(file) == set()


@pytest.mark.parametrize("file", rooms())
def test_no_file_is_a_drawer(file: str) -> None:
    assert len((HOUSE / file).read_text().splitlines()) <= MAX_LINES


def test_the_walls_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: each wall refuses an import that goes through it, also one inside a function."""
    monkeypatch.setattr(sys.modules[__name__], "HOUSE", tmp_path)
    cases = {
        "app/routes/jobs.py": "def f():\n    import torch",
        "app/jobs/admission.py": "from worker.errors import WorkerError",
        "app/contract/messages/job.py": "from app.settings import Settings",
        "app/cli/up.py": "from rq import Queue",
        "worker/intake.py": "import app.main",
        "worker/engine/engine.py": "import redis.asyncio",
    }
    for file, text in cases.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
        assert strangers(file), file


@pytest.mark.parametrize("module", ["app.main", "app.cli.main", "app.webhooks.main"])
def test_the_gateway_runs_without_torch(module: str) -> None:
    """A fresh interpreter, since this one may have met torch in another test."""
    code = f"import sys, {module}; print(sorted(set({sorted(HEAVY)}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
