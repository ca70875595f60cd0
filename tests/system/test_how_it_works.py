"""docs/how-it-works.md: each command is run as it stands, in a terminal, and says what the page says that it says."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from tests.system.conftest import COMMAND, Installation

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "how-it-works.md").read_text()
SHOWN = re.findall(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", DOCUMENT, re.M | re.S)
(START, _), *WALK = SHOWN
ADDRESS = "http://127.0.0.1:8000"
NUMBER = re.compile(r"-?\d+\.\d+")
APART = 0.02
"""How far a cosine may be from the one shown: other processors round otherwise."""

PICTURES = {
    "{number}.png": ("0.png", "1.png", "2.png"),
    "steps.png": ("steps.png",),
    "$scheduler.png": ("ddpm.png", "ddim.png", "dpmpp_2m.png", "unipc.png"),
    "unclip.png": tuple(f"unclip-{number}.png" for number in range(4)),
    "variation.png": tuple(f"variation-{number}.png" for number in range(4)),
    "walk/a.png": ("a.png", "b.png", "c.png"),
}
"""What a command draws, by what it is asked to write."""


@dataclass
class Walk:
    """The commands of the page, each run once and after those before it."""

    folder: Path
    url: str
    said: list[str] = field(default_factory=list)

    def output(self, number: int) -> str:
        """Of one of them, as a terminal shows it."""
        while len(self.said) <= number:
            code, said = in_terminal(WALK[len(self.said)][0].replace(ADDRESS, self.url), self.folder, self.url)
            assert code == 0, said
            self.said.append(said)
        return self.said[number]


def in_terminal(command: str, folder: Path, url: str) -> tuple[int, str]:
    """Exit code and output of a command whose output goes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM")}
    environment["PATH"] = os.pathsep.join([str(COMMAND.parent), environment["PATH"]])
    environment |= {"TERM": "dumb", "DARKROOM_URL": url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    process = subprocess.Popen(
        ["sh", "-eu", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65_536):
            said += part
    except OSError:
        pass  # How Linux says that nobody writes any more.
    os.close(ours)
    return process.wait(), said.decode()


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, shared_machine: dict[str, str]) -> Iterator[Walk]:
    """Where the page begins: its service runs, in a folder that has of the clone what the commands read."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "models").symlink_to(ROOT / "models")
    _, started = START.splitlines()
    installation = Installation(folder / "data", environment=dict(shared_machine))
    models = shlex.split(started)[2:]
    installation.options = ["--port", str(installation.port), "--data", str(installation.data), *models]
    installation.start_and_wait()
    yield Walk(folder, installation.url)
    installation.kill_everything()


def test_every_section_has_a_command() -> None:
    sections = re.split(r"^#{2,3} ", DOCUMENT.split("## From words")[1].split("### Who else")[0], flags=re.M)
    assert len(sections) == 11
    assert all("```sh" in section for section in sections)


@pytest.mark.parametrize("number", range(len(WALK)), ids=lambda number: WALK[number][0].strip().split("\n")[-1][:50])
def test_a_command_says_what_the_page_says(walk: Walk, number: int) -> None:
    command, shown = WALK[number]
    said = walk.output(number)
    lines = [" ".join(line.split()) for line in said.splitlines()]
    for line in shown.splitlines():
        assert any(alike(" ".join(line.split()), each) for each in lines), f"{line!r} is not in {said}"
    drawn = [files for written, files in PICTURES.items() if written in command]
    for file in (file for files in drawn for file in files):
        with Image.open(walk.folder / "walk" / file) as picture:
            assert min(picture.size) >= 128


def alike(one: str, other: str) -> bool:
    """Equal but for a little in their fractions."""
    if NUMBER.sub("", one) != NUMBER.sub("", other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(abs(float(a) - float(b)) <= APART for a, b in pairs)


def test_numbers_are_compared() -> None:
    assert alike("0.850 a", "0.845 a")
    assert not alike("0.850 a", "0.450 a")
    assert not alike("0.850 a", "0.850 b")
