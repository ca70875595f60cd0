"""README and the other documents say what is so: settings, commands, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.contract.environment import PREFIX
from app.main import create_app
from app.settings import Settings
from worker.settings import BUNDLED_MODEL, WorkerSettings

HOUSE = Path(__file__).parents[1]
README = (HOUSE / "README.md").read_text()
DOCUMENTS = sorted(
    path for path in [*HOUSE.glob("*.md"), *(HOUSE / "docs").rglob("*.md"), *(HOUSE / "models").rglob("*.md")]
)


def settings_table() -> str:
    """The settings of both rooms as README shows them. `python -m tests.test_readme` prints it."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for kind, room in ((Settings, "gateway, webhooks"), (WorkerSettings, "worker")):
        others = WorkerSettings if kind is Settings else Settings
        for name, field in kind.model_fields.items():
            if kind is WorkerSettings and name in Settings.model_fields:
                continue
            where = "all" if name in others.model_fields else room
            rows.append(f"| `{PREFIX}{name.upper()}` | {_default(field)} | {field.description}. *{where}* |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value == ():
        return ""
    if value == BUNDLED_MODEL:
        return "`models/starter`"
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if isinstance(value, str) and value.startswith("file://"):
        return "`./data/pictures`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_settings_table_is_true() -> None:
    shown = README.split("<!-- settings -->\n")[1].split("\n<!-- /settings -->")[0]
    assert shown == settings_table()


def test_make_knows_the_commands_that_are_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (HOUSE / "Makefile").read_text(), re.M))
    named = {match for path in DOCUMENTS for match in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.M)}
    assert {"run", "test"} <= named
    assert named <= targets


def test_darkroom_knows_the_commands_that_are_named() -> None:
    from app.cli.main import app

    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    named = set(re.findall(r"(?:`|bin/|^)darkroom ([a-z]+)\b(?! ready)", text, re.M))
    assert {"generate", "worker"} <= named
    assert named <= commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HOUSE)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target


def test_every_route_that_is_named_exists() -> None:
    paths = {path.replace("{job_id}", "{id}") for path in create_app(Settings()).openapi()["paths"]}
    named = set(re.findall(r"`(?:GET|POST|DELETE) (/[^`?]*)`", README))
    assert named
    assert named <= paths


if __name__ == "__main__":
    print(settings_table())
