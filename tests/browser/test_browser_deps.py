"""`make browser-deps` on machines that are not this one: played by programs in an otherwise empty PATH."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser.conftest import CANDIDATES

ROOT = Path(__file__).parents[2]
MAKE = shutil.which("make")
DEBIANS = "chromium-headless-shell chromium"

pytestmark = pytest.mark.skipif(MAKE is None, reason="needs make")


class Machine:
    """A PATH with nothing but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = folder / "asked"
        self.has("id", "echo 0")

    def has(self, name: str, script: str) -> None:
        program = self.folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def has_apt(self, *, update: int = 0, packages: str = DEBIANS, brings: bool = True) -> None:
        """`packages` are the names that it knows; each brings a program of its name, or nothing."""
        program = f'"{self.folder}/$package"'
        bring = f"printf '#!/bin/sh\\n' > {program}; /bin/chmod 755 {program}" if brings else ":"
        lines = (
            f'echo "$*" >> {self.asked}',
            f'[ "$1" = update ] && exit {update}',
            'for package in "$@"; do :; done',
            f'for known in {packages}; do [ "$known" = "$package" ] && {{ {bring}; exit 0; }}; done',
            "exit 100",
        )
        self.has("apt-get", "\n".join(lines))

    def make(self, **environment: str) -> subprocess.CompletedProcess[str]:
        assert MAKE is not None
        environment = {"PATH": str(self.folder), **environment}
        return subprocess.run([MAKE, "-C", ROOT, "browser-deps"], env=environment, capture_output=True, text=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_browser_that_is_there_is_taken(machine: Machine, name: str) -> None:
    machine.has_apt()
    machine.has(name, "exit 0")
    assert machine.make().returncode == 0
    assert not machine.asked.exists()


def test_a_browser_that_is_named_is_taken(machine: Machine, tmp_path: Path) -> None:
    machine.has_apt()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Machine(elsewhere).has("brave", "exit 0")
    assert machine.make(DARKROOM_TEST_BROWSER=str(elsewhere / "brave")).returncode == 0
    assert not machine.asked.exists()


@pytest.mark.parametrize("update", [0, 100])
def test_debian_installs_it(machine: Machine, update: int) -> None:
    """Also where one of the sources does not answer."""
    machine.has_apt(update=update)
    done = machine.make()
    assert done.returncode == 0, done
    update_line, install_line = machine.asked.read_text().splitlines()
    assert update_line.startswith("update")
    assert "install -y" in install_line
    assert install_line.endswith(" chromium-headless-shell")


def test_where_there_is_no_headless_shell_the_whole_browser_is_installed(machine: Machine) -> None:
    machine.has_apt(packages="chromium")
    done = machine.make()
    assert done.returncode == 0, done
    assert machine.asked.read_text().splitlines()[-1].endswith(" chromium")


def test_a_stub_for_a_snap_is_no_browser(machine: Machine) -> None:
    machine.has("chromium-browser", "echo install the snap >&2; exit 1")
    machine.has_apt()
    assert machine.make().returncode == 0
    assert machine.asked.exists()


def test_what_cannot_be_installed_is_said(machine: Machine) -> None:
    for setting in ({"packages": "none"}, {"brings": False}):
        machine.has_apt(**setting)
        done = machine.make()
        assert done.returncode != 0
        assert "DARKROOM_TEST_BROWSER" in done.stdout


def test_nobody_but_root_installs(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.has_apt()
    assert machine.make().returncode != 0
    assert not machine.asked.exists()
