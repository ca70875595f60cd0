"""What `pip install .` brings along: code, and the bundled models where the code looks for them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from app.contract.messages.model_name import BUNDLED_MODEL, BUNDLED_SCORER, BUNDLED_UNCLIP

HERE = Path(__file__).parents[1]


def test_it_has_every_file_of_the_bundled_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside `app`: without them a service that was not started from the source's folder had no model and no scorer."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.chdir(HERE)
    wheel = setuptools.Distribution({"script_name": "setup.py"})
    wheel.parse_config_files()
    # Else what is there is written down, in this folder.
    wheel.include_package_data = False
    build = wheel.get_command_obj("build_py")
    build.build_lib = str(tmp_path)
    build.ensure_finalized()
    installed = {Path(to, name) for _, _, to, names in build.data_files for name in names}
    for folder in (BUNDLED_MODEL, BUNDLED_SCORER, BUNDLED_UNCLIP):
        files = [each for each in folder.rglob("*") if each.is_file()]
        assert len(files) > 5
        assert {tmp_path / each.relative_to(HERE) for each in files} <= installed
    assert BUNDLED_MODEL.parents[1] == HERE


def test_it_has_no_other_model() -> None:
    """Gigabytes that somebody keeps in the same folder would be copied into build/, the wheel and site-packages."""
    said = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["models"]
    bundled = (BUNDLED_MODEL, BUNDLED_SCORER, BUNDLED_UNCLIP)
    assert sorted(pattern.partition("/")[0] for pattern in said) == sorted(folder.name for folder in bundled)
