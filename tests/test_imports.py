"""Which package may import which, read from the import statements."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = {"torch", "diffusers", "transformers", "safetensors", "accelerate", "numpy"}
NOT_INSTALLED = {"recipes", "models", "benchmarks", "tests"}
OUTSIDE = {"redis", "rq", "fastapi", "starlette", "httpx2", "obstore"}
MAY_KNOW_RQ = ("app/contract/redis/rq_job.py", "worker/intake.py", "worker/rq_queues.py", "app/webhooks/")
MAX_LINES = 350

LAYERS: tuple[tuple[str, ...], ...] = (
    ("app.contract.common", "app.contract.messages", "app.contract.objects"),
    ("app.contract.redis",),
    ("app.contract.settings",),
    ("app.outbound", "app.pictures"),
    ("app.edge",),
    ("app.settings",),
    ("app.jobs",),
    ("app.services",),
    ("app.routes",),
    ("app.a1111", "app.admin", "app.huggingface", "app.openai", "app.replicate"),
    ("app.webhooks",),
    ("app.wiring",),
    ("app.main",),
    ("app.cli",),
)
"""Packages of the gateway, lowest first. One imports those of lower layers, and none beside it."""


def files_of(*packages: str) -> list[str]:
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in files)


def files_of_the_product() -> list[str]:
    return files_of("app", "worker")


def imports(file: str) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden_imports(file: str) -> set[str]:
    """Imports of `file` that a rule of its package forbids."""
    names = {name: name.split(".")[0] for name in imports(file)}
    forbidden = {name for name, top in names.items() if top in NOT_INSTALLED}
    if file.startswith("app/"):
        forbidden |= {name for name, top in names.items() if top in HEAVY | {"worker"}}
    if file.startswith("app/contract/"):
        others = ("fastapi", "starlette", "uvicorn", "httpx2", "typer")
        forbidden |= {name for name, top in names.items() if top in others}
        forbidden |= {name for name, top in names.items() if top == "app" and not name.startswith("app.contract")}
    if file.startswith("worker/"):
        forbidden |= {name for name, top in names.items() if top == "app" and not _is_of_the_contract(name)}
    if file.startswith(("worker/engine/", "worker/families/", "worker/models/")):
        forbidden |= {name for name, top in names.items() if top in OUTSIDE}
    if file.startswith("worker/engine/"):
        forbidden |= {name for name in names if name.startswith(("worker.families", "worker.models", "diffusers"))}
    if file.startswith("worker/models/"):
        forbidden |= {name for name in names if name.startswith("worker.families")}
    if not file.startswith(MAY_KNOW_RQ):
        forbidden |= {name for name, top in names.items() if top == "rq"}
    return forbidden


def _is_of_the_contract(name: str) -> bool:
    return name.startswith("app.contract") or name == "app.__version__"


def test_no_import_breaks_a_rule() -> None:
    assert {file: names for file in files_of_the_product() if (names := forbidden_imports(file))} == {}


def layer_of(module: str) -> tuple[int, str] | None:
    """Where a module of the gateway stands, and its package. None for `app` itself, which is a name and a version."""
    for level, packages in enumerate(LAYERS):
        for package in packages:
            if module == package or module.startswith(f"{package}."):
                return level, package
    return None


def upward(file: str) -> set[str]:
    """Imports of `file`, a file of the gateway, that do not go down."""
    own = layer_of(_module(file))
    assert own, f"{file} is in no package that LAYERS names"
    places = {name: layer_of(name) for name in imports(file)}
    return {name for name, place in places.items() if place and place != own and place[0] >= own[0]}


def in_circles(files: list[str]) -> set[str]:
    """Modules that import each other in a circle, `TYPE_CHECKING` imports included, and what lies between circles."""
    modules = {_module(file): file for file in files}
    graph = {module: {_known(name, modules) for name in imports(file)} for module, file in modules.items()}
    left = set(graph)
    while True:
        imported = {name for module in left for name in graph[module]}
        free = {module for module in left if module not in imported or not graph[module] & left}
        if not free:
            return left
        left -= free


def _known(name: str, modules: dict[str, str]) -> str:
    """The module that `name` is, or is in. A package's own file does not count: each file in it would need it."""
    return name if name in modules else name.rpartition(".")[0]


def _module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_the_gateways_packages_import_downward() -> None:
    files = [file for file in files_of("app") if file not in ("app/__init__.py", "app/contract/__init__.py")]
    assert {file: names for file in files if (names := upward(file))} == {}


def test_no_circle() -> None:
    assert in_circles(files_of("app", "worker", "benchmarks", "recipes")) == set()


def test_no_file_is_too_long() -> None:
    lengths = {file: len((ROOT / file).read_text().splitlines()) for file in files_of_the_product()}
    assert {file: lines for file, lines in lengths.items() if lines > MAX_LINES} == {}


def test_a_forbidden_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: each rule refuses an import that breaks it, also one inside a function."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    cases = {
        "app/routes/jobs.py": "def f():\n    import torch",
        "app/jobs/admission.py": "from worker.errors import WorkerError",
        "app/contract/messages/job.py": "from app.settings import Settings",
        "app/cli/up.py": "from rq import Queue",
        "worker/intake.py": "import app.main",
        "worker/models/scorer.py": "from recipes.starter.words import COLOURS",
        "worker/engine/engine.py": "import redis.asyncio",
        "worker/engine/lane.py": "from worker.models.bundle import Bundle",
        "worker/families/text.py": "import obstore",
        "worker/models/bundle.py": "from worker.families import choose",
    }
    for file, text in cases.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
        assert forbidden_imports(file), file


def test_an_import_upward_and_a_circle_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    cases = {
        "app/edge/guard.py": "from app.jobs.admission import Admission",
        "app/jobs/admission.py": "def f():\n    from app.services import Services",
        "app/openai/routes.py": "from app.replicate.schemas import Prediction",
        "app/services.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app import jobs, main",
        "app/main.py": "from app.settings import Settings",
        "app/jobs/__init__.py": "",
        "app/settings.py": "from app.contract.redis import keys\nfrom app.edge.guard import Guard",
        "app/contract/redis/keys.py": "",
    }
    for file, text in cases.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    seen = {file for file in cases if upward(file)}
    assert seen == {"app/edge/guard.py", "app/jobs/admission.py", "app/openai/routes.py", "app/services.py"}
    circle = {"app.edge.guard", "app.jobs.admission", "app.services", "app.main", "app.settings"}
    assert in_circles(sorted(cases)) == circle


def test_one_file_makes_clients_of_a_url() -> None:
    """Any other would take the URL of sentinels for that of a server."""
    texts = {file: (ROOT / file).read_text() for file in files_of_the_product()}
    made = {file for file, text in texts.items() if re.search(r"\b(?:Redis|ConnectionPool)\.from_url\(", text)}
    assert made == {"app/contract/redis/clients.py", "app/contract/redis/url.py"}


def test_every_router_is_served() -> None:
    """One that is left out of SERVED is missing without a word: in the OpenAPI, and in every test that asks by it."""
    from app.main import SERVED

    routers = {_module(file) for file in files_of("app") if re.search(r"^router = ", (ROOT / file).read_text(), re.M)}
    assert routers == {module.__name__ for module in SERVED}


@pytest.mark.parametrize("module", ["app.main", "app.cli.main", "app.webhooks.main"])
def test_the_gateway_runs_without_torch(module: str) -> None:
    """A fresh interpreter, since this one may have met torch in another test."""
    code = f"import sys, {module}; print(sorted(set({sorted(HEAVY)}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_request_of_the_engine_brings_no_service_with_it() -> None:
    """It is made from the declarations in the contract, which may lead to nothing that speaks to anybody."""
    code = f"import sys, worker.engine.request; print(sorted(set({sorted(OUTSIDE | HEAVY)}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
