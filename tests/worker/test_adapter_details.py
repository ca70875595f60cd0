"""Previews beside LoRA files become thumbnails: small, nothing but pixels, stored, and on the model's card."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from app.contract.messages.card import Adapter, ModelCard
from tests.pictures import file_of, noise
from worker.adapter_details import AdapterFiles
from worker.models import thumbnails
from worker.models.adapter_folder import is_preview
from worker.storage import ObjectStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of LoRAs: one, of which nothing but the hash is read."""
    loras = tmp_path / "loras"
    loras.mkdir()
    (loras / "ink.safetensors").write_bytes(b"weights")
    return loras


def cards_of(card: ModelCard, folder: Path) -> list[Adapter]:
    """What is announced of the LoRA, one card after the other. The store lies beside the folder."""
    files = AdapterFiles(controls={}, loras={"ink": folder / "ink.safetensors"})
    announced: list[ModelCard] = []
    store = ObjectStore.from_url((folder.parent / "store").as_uri())
    files.look_up(card.model_copy(update={"loras": (Adapter(name="ink"),)}), store, announced.append)
    return [each.loras[0] for each in announced]


def test_a_preview_is_shown_before_hashes_are_read(card: ModelCard, folder: Path) -> None:
    canary = Image.Exif()
    canary[0x010E] = "zanzibar-4711"
    picture = Image.new("RGBA", (1_000, 500), (255, 0, 0, 255))
    (folder / "ink.preview.png").write_bytes(file_of(picture, exif=canary))
    (folder / "ink.png").write_bytes(b"the marked one goes first")
    first, last = cards_of(card, folder)
    assert first.sha256 is None
    assert last.sha256
    assert first.thumbnail == last.thumbnail
    [stored] = (folder.parent / "store").rglob("*.jpg")
    assert stored.name == f"{first.thumbnail}.jpg"
    data = stored.read_bytes()
    assert b"zanzibar" not in data
    with Image.open(io.BytesIO(data)) as shown:
        assert (shown.format, shown.mode, shown.size) == ("JPEG", "RGB", (256, 128))
        red, green, blue = shown.getpixel((9, 9))
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_kind_that_others_write(kind: str, card: ModelCard, folder: Path) -> None:
    suffix = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp"}[kind]
    (folder / f"ink.{suffix}").write_bytes(file_of(noise(64, 48), kind))
    assert cards_of(card, folder)[-1].thumbnail


def leading_out(preview: Path) -> None:
    outside = preview.parent.parent / "secret.png"
    outside.write_bytes(file_of(noise()))
    preview.symlink_to(outside)


def too_long(preview: Path) -> None:
    preview.touch()
    os.truncate(preview, thumbnails.MOST_BYTES + 1)


ODD: dict[str, Callable[[Path], object]] = {
    "damaged": lambda file: file.write_bytes(file_of(noise())[:900]),
    "no picture": lambda file: file.write_bytes(b"<svg/>"),
    "empty": lambda file: file.write_bytes(b""),
    "a row of pixels more": lambda file: file.write_bytes(file_of(Image.new("1", (4_096, 4_097)))),
    "too many bytes": too_long,
    "a link out of the folder": leading_out,
    "a dead link": lambda file: file.symlink_to("nowhere"),
    "a folder": lambda file: file.mkdir(),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_cannot_be_shown_is_passed_over(
    kind: str, card: ModelCard, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ODD[kind](folder / "ink.preview.png")
    assert cards_of(card, folder)[-1] == Adapter(name="ink", sha256=cards_of(card, folder)[-1].sha256)
    assert "a preview is not shown" in capsys.readouterr().out


def test_links_within_the_folder_are_followed(card: ModelCard, folder: Path) -> None:
    """As in a volume that Kubernetes mounts."""
    (folder / ".data").mkdir()
    (folder / ".data" / "ink.png").write_bytes(file_of(noise()))
    (folder / "ink.png").symlink_to(".data/ink.png")
    assert cards_of(card, folder)[-1].thumbnail


def test_a_store_that_is_away_costs_the_thumbnail_only(
    card: ModelCard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.adapter_details.THUMBNAIL_SECONDS", 0.0)
    (folder / "ink.png").write_bytes(file_of(noise()))
    (folder.parent / "store").mkdir()
    (folder.parent / "store" / "thumbnails").write_text("in the way")
    last = cards_of(card, folder)[-1]
    assert last.thumbnail is None
    assert last.sha256


def test_previews_belong_to_the_folder(folder: Path) -> None:
    names = ("ink.png", "ink.preview.webp", "ink.jpeg", "other.png", "ink.txt", "ink.preview.preview.png")
    assert [name for name in names if is_preview(folder / name)] == ["ink.png", "ink.preview.webp", "ink.jpeg"]
