"""README and the other documents say what is so: settings, commands, links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.cli.up_settings import UpSettings
from app.contract.common.environment import PREFIX
from app.contract.messages.params import JobRequest
from app.contract.settings import SharedSettings
from app.main import create_app
from app.settings import Settings
from worker.settings import BUNDLED_MODEL, WorkerSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FOLDERS = ("docs", "models", "recipes", "deploy")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])


def settings_table() -> str:
    """The settings of both rooms as README shows them. `python -m tests.test_readme` prints it."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    kinds = {Settings: "gateway, webhooks", SharedSettings: "all", WorkerSettings: "worker", UpSettings: "up"}
    for kind, room in kinds.items():
        for name, field in kind.model_fields.items():
            if not any(name in getattr(base, "model_fields", {}) for base in kind.__bases__):
                rows.append(f"| `{PREFIX}{name.upper()}` | {_default(field)} | {field.description}. *{room}* |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value in ((), {}):
        return ""
    if isinstance(value, Path) and value.parent == BUNDLED_MODEL.parent:
        return f"`models/{value.name}`"
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
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {match for path in DOCUMENTS for match in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.M)}
    assert {"run", "test"} <= named
    assert named <= targets


def test_make_fuzz_looks_for_other_examples_of_every_property() -> None:
    """`make test` has the same each time, and would never find others."""
    searched = re.search(r"^fuzz:.*?^\n", (ROOT / "Makefile").read_text(), re.M | re.S)
    assert searched
    of_hypothesis = re.compile(r"^@given\(|^    play\(machine, ", re.M)
    files = {
        str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/*.py") if of_hypothesis.search(path.read_text())
    }
    assert len(files) > 5
    assert files <= set(searched[0].split())


def test_darkroom_knows_the_commands_that_are_named() -> None:
    from app.cli.main import app

    root: Any = typer.main.get_command(app)
    commands = set(root.commands)
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    named = set(re.findall(r"(?:`|bin/|^)darkroom ([a-z]+)\b(?! ready)", text, re.M))
    assert {"generate", "worker"} <= named
    assert named <= commands


def shown_commands(document: Path) -> list[list[str]]:
    """Every `darkroom …` in a document's code, as words, without what a shell does around it."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", document.read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    # `darkroom keys create|list` in a sentence stands for both.
    spans = [span for line in document.read_text().splitlines() for span in re.findall(r"`([^`]*)`", line)]
    lines += [
        span for span in spans if re.match(r"(?:\.venv/bin/)?darkroom (?!is ready)[a-z]", span) and "|" not in span
    ]
    words = [shlex.split(line, comments=True) for line in lines if re.search(r"(?:^|[ /=])darkroom ", line)]
    return [line[at + 1 :] for line in words for at, word in enumerate(line) if re.fullmatch(r"(.*/)?darkroom", word)]


def test_the_commands_in_code_blocks_are_seen() -> None:
    assert "generate" in [words[0] for words in shown_commands(ROOT / "README.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_shown_exists(document: Path) -> None:
    from app.cli.main import app

    root: Any = typer.main.get_command(app)
    for words in shown_commands(document):
        command = root
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, words
            command, words = command.commands[words[0]], words[1:]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        named = {word.partition("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)}
        assert named <= options | {"--help"}, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(document: Path) -> None:
    """Those of the code, by their paths from the root; `::` and a test's name may follow."""
    named = re.findall(r"`((?:app|worker|tests|benchmarks)/[\w./-]+)(?:::\w+)?`", document.read_text())
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_contributing_names_every_package_and_the_reference_every_parameter() -> None:
    contributing, reference = ((ROOT / name).read_text() for name in ("CONTRIBUTING.md", "docs/api.md"))
    for side in ("app", "worker"):
        packages = {file.parent.name for file in (ROOT / side).glob("*/__init__.py")}
        assert {
            name for name in packages if f"`{name}/`" not in contributing and f"{side}/{name}/" not in contributing
        } == set()
    assert {name for name in JobRequest.model_fields if not re.search(rf'[`"]{name}\b', reference)} == set()


def test_the_exit_codes_are_true() -> None:
    from app.cli.exits import MEANINGS

    table = (ROOT / "docs" / "cli.md").read_text().split("| code | meaning |\n|---|---|\n")[1]
    assert table == "".join(f"| {code} | {meaning} |\n" for code, meaning in MEANINGS.items())


def test_every_route_that_is_named_exists() -> None:
    paths = {path.replace("{job_id}", "{id}") for path in create_app(Settings()).openapi()["paths"]}
    named = set(re.findall(r"`(?:GET|POST|DELETE) (/[^`?]*)`", README))
    assert named
    assert named <= paths


if __name__ == "__main__":
    print(settings_table())
