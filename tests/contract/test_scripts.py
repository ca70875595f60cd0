"""What a script carries: all that it uses of what scripts share, and nothing else of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.contract.redis import scripts
from app.contract.redis.scripts import OF_ALL, constants, source

FOLDER = Path(scripts.__file__).parent
SHARED = (*OF_ALL, "outbox")
NAMES = sorted(file.stem for file in FOLDER.glob("*.lua") if file.stem not in SHARED)
LOCALS = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_what_it_uses_before_it(name: str) -> None:
    shared = SHARED if name.startswith("outbox") else OF_ALL
    ours = LOCALS.findall(constants() + "".join((FOLDER / f"{each}.lua").read_text() for each in shared))
    code = re.sub(r"'[^']*'|--.*", "", source(name, *shared[len(OF_ALL) :]))
    for used in set(re.findall(r"\w+", code)).intersection(ours):
        before = code[: re.search(rf"\b{used}\b", code).start()]  # type: ignore[union-attr]
        assert before.endswith(("local ", "local function ")), f"the first {used} does not make it"


def test_what_a_script_does_not_use_is_left_out() -> None:
    assert "local function accept(" in source("submit")
    assert "local function enqueue(" in source("submit"), "what it uses by way of something else is there"
    assert "rq_started" not in source("submit")
    assert "ORPHANS" not in source("submit")
    assert len(LOCALS.findall(source("read"))) < 10
