"""A model folder that is put together from others: its bytes, what is kept, and every way in which it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.contract.messages.model_name import BUNDLED_MODEL
from recipes.starter.manifest import write_manifest
from worker.models.assembly import ASSEMBLY, MANIFEST, AssemblyError, assembled, put_together, whole_model
from worker.models.judge import judge
from worker.models.scorer_folder import is_scorer


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder `small` that has one tensor of its own, beside a folder `big` that it takes the rest from."""
    big, folder = tmp_path / "big", tmp_path / "small"
    for part in (big / "vae", big / "unet", folder / "unet"):
        part.mkdir(parents=True)
    (big / "vae" / "config.json").write_text("{}")
    save_file({"a.weight": torch.arange(6.0).half(), "b.weight": torch.ones(2, 3)}, big / "unet" / "all.safetensors")
    save_file({"b.weight": torch.zeros(2, 3), "c.weight": torch.ones(1)}, folder / "unet" / "trained.safetensors")
    (folder / "model_index.json").write_text("{}")
    describe(folder)
    return folder


def describe(folder: Path, **changes: object) -> None:
    """Its assembly and the hashes of what comes of it."""
    sources = [{"file": "../big/unet/all.safetensors"}, {"file": "unet/trained.safetensors"}]
    taken = [{"file": "../big/unet/all.safetensors", "prefixes": ["a."]}]
    says = {
        "copies": {"vae": "../big/vae"},
        "tensors": {"unet/all.safetensors": sources, "text/model.safetensors": taken},
    }
    (folder / ASSEMBLY).write_text(json.dumps(says | changes))
    if not changes:
        put_together(folder, folder.with_name("whole"))
        write_manifest(folder.with_name("whole"))
        shutil.copy(folder.with_name("whole") / MANIFEST, folder)
        shutil.rmtree(folder.with_name("whole"))


def test_tensors_of_several_files_become_one_and_the_last_one_counts(small: Path, tmp_path: Path) -> None:
    whole = assembled(small, tmp_path / "cache")
    tensors = load_file(whole / "unet" / "all.safetensors")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "a.weight": [0, 1, 2, 3, 4, 5],
        "b.weight": [[0, 0, 0], [0, 0, 0]],
        "c.weight": [1],
    }
    assert tensors["a.weight"].dtype == torch.float16
    assert set(load_file(whole / "text" / "model.safetensors")) == {"a.weight"}
    assert whole.name == "small"
    inside = {file.relative_to(whole).as_posix() for file in whole.rglob("*") if file.is_file()}
    assert inside == {
        "vae/config.json", "unet/all.safetensors", "text/model.safetensors", "model_index.json", MANIFEST,
    }  # fmt: skip


def test_what_is_there_is_taken_again(small: Path, tmp_path: Path) -> None:
    first = assembled(small, tmp_path / "cache")
    (tmp_path / "big" / "unet" / "all.safetensors").unlink()
    assert assembled(small, tmp_path / "cache") == first


def test_a_card_and_a_notice_go_with_it_whatever_they_say(small: Path, tmp_path: Path) -> None:
    for name in ("README.md", "NOTICE"):
        (small / name).write_text("Written later.")
    whole = assembled(small, tmp_path / "cache")
    assert (whole / "README.md").read_text() == (whole / "NOTICE").read_text() == "Written later."
    assert assembled(small, tmp_path / "cache") == whole


@pytest.mark.parametrize("spoil", ["changed", "gone", "more"])
def test_what_was_kept_and_is_another_by_now_is_made_again(small: Path, tmp_path: Path, spoil: str) -> None:
    whole = assembled(small, tmp_path / "cache")
    file = whole / "text" / "model.safetensors"
    before = file.read_bytes()
    if spoil == "more":
        (whole / "vae" / "extra.json").write_text("{}")
    elif spoil == "gone":
        file.unlink()
    else:
        file.write_bytes(before[:-1] + b"x")
    assert assembled(small, tmp_path / "cache") == whole
    assert file.read_bytes() == before
    assert not (whole / "vae" / "extra.json").exists()
    assert [each.name for each in whole.parent.iterdir()] == ["small"]


def test_nothing_is_taken_from_elsewhere_than_models_are(small: Path, tmp_path: Path) -> None:
    """Neither by a path nor by a link."""
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "key").write_text("secret")
    for source in (f"../../{elsewhere.name}/key", str(elsewhere / "key"), "NOTICE", "link", "../big/vae"):
        if source == "NOTICE":
            # Its own files may be links as well.
            (small / "NOTICE").unlink(missing_ok=True)
            (small / "NOTICE").symlink_to(elsewhere / "key")
            with pytest.raises(AssemblyError, match=r"lies neither beside small nor among the bundled models"):
                assembled(small, tmp_path / "cache")
            (small / "NOTICE").unlink()
            continue
        if source == "link":
            (small / "link").symlink_to(elsewhere / "key")
        elif source == "../big/vae":
            (tmp_path / "big" / "vae" / "key").symlink_to(elsewhere / "key")
        describe(small, copies={"vae/key": source})
        with pytest.raises(AssemblyError, match=r"lies neither beside small nor among the bundled models"):
            assembled(small, tmp_path / "cache")
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_other_sources_than_it_was_made_for_are_refused_and_nothing_is_kept(small: Path, tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(6).half()}, tmp_path / "big" / "unet" / "all.safetensors")
    with pytest.raises(
        AssemblyError, match=r"other files than it was made for \((text|unet)/.*\.safetensors\); check it"
    ):
        assembled(small, tmp_path / "cache")
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_a_source_that_is_missing_or_cut_has_a_sentence(small: Path, tmp_path: Path) -> None:
    source = tmp_path / "big" / "unet" / "all.safetensors"
    source.write_bytes(source.read_bytes()[:-4])
    with pytest.raises(AssemblyError, match=r"all.safetensors is no whole safetensors file"):
        assembled(small, tmp_path / "cache")
    source.unlink()
    with pytest.raises(AssemblyError, match=r"all.safetensors: No such file or directory"):
        assembled(small, tmp_path / "cache")


def test_a_manifest_that_is_no_text_has_a_sentence(small: Path, tmp_path: Path) -> None:
    (small / "sha256sums.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AssemblyError, match=r"sha256sums.txt is no text"):
        assembled(small, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_has_a_sentence(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AssemblyError, match=r"let XDG_CACHE_HOME be a writable folder"):
        assembled(small, tmp_path / "file" / "cache")


@pytest.mark.parametrize("name", ["../outside", "/etc/outside"])
def test_nothing_is_written_outside(small: Path, tmp_path: Path, name: str) -> None:
    describe(small, copies={name: "../big/vae"})
    with pytest.raises(AssemblyError, match=r"a file of the model lies in its folder"):
        assembled(small, tmp_path / "cache")


def test_an_assembly_that_cannot_be_read_has_a_sentence(small: Path, tmp_path: Path) -> None:
    describe(small, colour="red")
    with pytest.raises(AssemblyError, match=r"assembly.json cannot be read \(colour"):
        assembled(small, tmp_path / "cache")


def test_a_folder_that_cannot_be_looked_into_has_a_sentence() -> None:
    """As one in a home that is shut to whom the worker runs as, which ended it in a traceback. Root may look anywhere;
    a name that is too long fails for everybody, by another error."""
    folder = Path("x" * 300, "model")
    assert whole_model(folder) == folder
    assert not is_scorer(folder)
    [fault] = judge(folder, dtype="float32").faults
    assert "cannot be read" in fault


def test_a_bundled_model_is_found_by_name_unless_a_folder_of_that_name_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert whole_model(Path("starter")) == BUNDLED_MODEL
    assert is_scorer(whole_model(Path("starter-scorer"))), "a worker may be given its name as well"
    (tmp_path / "starter").mkdir()
    assert whole_model(Path("starter")) == Path("starter")
    assert whole_model(Path("no-such-model")) == Path("no-such-model")
