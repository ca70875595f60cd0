"""Packages are what they were when the model was trained, or they are refused."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.starter.sources import FLUENT, PACKAGES, SourceError, fetch, icons, read_member

BODY = '<circle cx="16" cy="16" r="9"/>'
ICONS = {
    "prefix": "tiny",
    "width": 32,
    "height": 32,
    "icons": {"sun": {"body": BODY}, "wide": {"body": BODY, "width": 64}},
    "aliases": {"star": {"parent": "sun"}},
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / FLUENT.archive, "w:gz") as archive:
        content = json.dumps(ICONS).encode()
        member = tarfile.TarInfo("package/icons.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return tmp_path


def real(cache: Path) -> str:
    return hashlib.sha256((cache / FLUENT.archive).read_bytes()).hexdigest()


def test_a_cached_package_is_read_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    package = replace(FLUENT, sha256=real(cache))
    found = icons(package, cache, ["star", "wide"])
    assert found["star"] == f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{BODY}</svg>'
    assert 'viewBox="0 0 64 32"' in found["wide"]


def test_an_unknown_icon_is_named(cache: Path) -> None:
    with pytest.raises(SourceError, match=r"tiny has no moon; correct the name in words\.py"):
        icons(replace(FLUENT, sha256=real(cache)), cache, ["moon"])


def test_a_changed_package_is_refused(cache: Path) -> None:
    with pytest.raises(SourceError, match="delete it and fetch it again"):
        fetch(FLUENT, cache)


def test_a_missing_member_is_named(cache: Path) -> None:
    with pytest.raises(KeyError, match=r"README\.md"):
        read_member(replace(FLUENT, sha256=real(cache)), cache, "README.md")


def test_without_npm_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match=f"put {FLUENT.archive} into"):
        fetch(FLUENT, tmp_path / "new")


def test_archives_are_named_as_npm_names_them() -> None:
    assert [package.archive for package in PACKAGES] == [
        "iconify-json-fluent-emoji-flat-1.2.6.tgz",
        "emojilib-4.0.3.tgz",
    ]
