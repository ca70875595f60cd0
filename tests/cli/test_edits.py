"""`darkroom edit` and `vary`, LoRAs and controls: files go in first, then the job names them."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.cli.pictures_in import _control, _lora
from app.contract.messages.card import Adapter, ModelCard
from tests.app.conftest import Running, ScriptedWorker
from tests.cli.conftest import Hand, Run, begun, no_service, picture
from tests.waiting import WAIT_SECONDS, until
from worker.images import encode


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    return card.model_copy(
        update={
            "takes": ("image", "strength", "mask_image", "mask_blur", "loras", "control"),
            "tasks": ("text-to-image", "image-to-image", "inpainting"),
            "loras": (Adapter(name="ink"),),
            "controls": (Adapter(name="canny"),),
            "max_controls": 1,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where commands run: with a photo, a mask, and edges."""
    (tmp_path / "photo.jpg").write_bytes(picture("teal", kind="jpeg", side=96))
    (tmp_path / "mask.png").write_bytes(picture("white", side=96))
    (tmp_path / "edges.webp").write_bytes(picture("gray", kind="webp", side=64))
    return tmp_path


def test_a_picture_is_edited(run: Run, hand: Hand, folder: Path) -> None:
    done = run("edit", "photo.jpg", "a boat", "a ship", "--strength", "0.7", "-o", "{prompt}.png", "--steps", "7")
    assert done.exit_code == 0, done.stderr
    assert {path.name for path in folder.glob("*.png")} == {"a-boat.png", "a-ship.png", "mask.png"}
    specs = [claim.spec for claim in hand.claims]
    (image,) = {spec.image for spec in specs}
    assert image is not None
    assert (image.width, image.height, image.content_type) == (96, 96, "image/jpeg")
    assert {(spec.strength, spec.num_inference_steps, spec.width) for spec in specs} == {(0.7, 7, 96)}


def test_a_mask_says_where(run: Run, hand: Hand, folder: Path) -> None:
    assert run("edit", "photo.jpg", "a boat", "--mask", "mask.png", "--mask-blur", "4", "-o", "out.png").exit_code == 0
    (claim,) = hand.claims
    assert claim.spec.mask_image is not None
    assert (claim.spec.mask_image.content_type, claim.spec.mask_blur, claim.spec.strength) == ("image/png", 4, 1.0)


def test_what_the_service_warned_of_is_said_once(run: Run, hand: Hand, folder: Path) -> None:
    """A job has it as it is taken, and at its end."""
    (folder / "large.png").write_bytes(picture("teal", side=1_000))
    assert run("edit", "large.png", "a boat").stderr.count("The picture of 1000 x 1000 pixels is drawn at") == 1


def test_a_picture_from_stdin(run: Run, hand: Hand, folder: Path) -> None:
    done = run("edit", "-", "a boat", "-o", "out.png", input=(folder / "photo.jpg").read_bytes())
    assert done.exit_code == 0, done.stderr
    assert hand.claims[0].spec.image is not None


def test_loras_and_controls(run: Run, hand: Hand, folder: Path) -> None:
    done = run("generate", "a boat", "--lora", "ink:0.8", "--control", "canny=edges.webp:0.5", "-o", "out.png")
    assert done.exit_code == 0, done.stderr
    (claim,) = hand.claims
    assert [each.model_dump() for each in claim.spec.loras] == [{"name": "ink", "weight": 0.8}]
    (control,) = claim.spec.control
    assert (control.model, control.scale, control.image.width, claim.spec.image) == ("canny", 0.5, 64, None)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("ink", {"name": "ink"}),
        ("ink:-0.5", {"name": "ink", "weight": -0.5}),
        ("style:ink", {"name": "style:ink"}),
        ("style:ink:1e-1", {"name": "style:ink", "weight": 0.1}),
        ("ink:nan", {"name": "ink:nan"}),
        (":0.5", {"name": ":0.5"}),
    ],
)
def test_how_a_lora_is_written(text: str, meant: dict[str, Any]) -> None:
    assert _lora(text) == meant


def test_how_a_control_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "edges:1").touch()
    assert _control("canny=a=b.png:0.5") == ({"model": "canny", "scale": 0.5}, "a=b.png")
    assert _control("canny=edges:1") == ({"model": "canny"}, "edges:1"), "there is such a file"


def a_print(folder: Path, **record: object) -> None:
    """out.png, as a worker writes it."""
    asked = {
        "prompt": "a lion",
        "seed": 5,
        "model": "of another name",
        "model_hash": "0" * 64,
        "width": 64,
        "height": 72,
    }
    pixels = io.BytesIO(picture("red"))
    with Image.open(pixels) as image:
        import numpy as np

        data = encode(np.asarray(image), output_format="png", record=asked | record)
    (folder / "out.png").write_bytes(data)


def test_a_print_brings_its_prompt_and_settings(run: Run, hand: Hand, folder: Path) -> None:
    a_print(folder, num_inference_steps=9, scheduler="euler", loras=[{"name": "ink", "weight": 0.5}], strength=0.2)
    done = run("vary", "out.png", "-o", "{index}.png", "-n", "2")
    assert done.exit_code == 0, done.stderr
    (claim,) = hand.claims
    spec = claim.spec
    assert (spec.prompt, spec.num_inference_steps, spec.scheduler, spec.width, spec.height) == (
        "a lion", 9, "euler", 64, 72,
    )  # fmt: skip
    assert (spec.strength, spec.num_images, spec.model, spec.loras[0].weight) == (0.6, 2, "starter", 0.5)
    assert spec.seed != 5
    assert spec.image is not None


def test_what_is_said_goes_before_the_record(run: Run, hand: Hand, folder: Path) -> None:
    a_print(folder, num_inference_steps=9, model_hash="f" * 64)
    done = run("vary", "out.png", "a cat", "--steps", "7", "--strength", "0.3", "--seed", "3", "--aspect-ratio", "1:1")
    assert done.exit_code == 0, done.stderr
    assert "darkroom vary: no model here has the weights of of another name; the default one draws" in done.stderr
    spec = hand.claims[0].spec
    assert (spec.prompt, spec.num_inference_steps, spec.strength, spec.seed) == ("a cat", 7, 0.3, 3)
    assert (spec.width, spec.height) == (128, 128)


def test_a_file_that_is_no_picture_is_called_by_its_name(run: Run, hand: Hand, folder: Path) -> None:
    (folder / "notes.txt").write_text("no picture")
    assert "darkroom vary: notes.txt: these bytes are no readable" in run("vary", "notes.txt").stderr
    assert "darkroom edit: notes.txt is no PNG, JPEG or WebP picture" in run("edit", "notes.txt", "a boat").stderr
    assert hand.claims == []


def test_a_picture_without_a_record_is_varied_by_a_prompt(run: Run, hand: Hand, folder: Path) -> None:
    refused = run("vary", "photo.jpg")
    assert (refused.exit_code, hand.claims) == (2, [])
    assert "darkroom vary: the picture carries no darkroom record: give a prompt" in refused.stderr
    assert run("vary", "photo.jpg", "a boat", "-o", "out.png").exit_code == 0
    assert hand.claims[0].spec.strength == 0.6


@pytest.fixture
def of_embeddings(worker: ScriptedWorker) -> None:
    """The model draws from the embeddings of pictures, and has no prior."""
    takes, tasks = ("image_embedding", "noise_level"), ("text-to-image", "image-variation")
    worker.card = worker.card.model_copy(update={"takes": takes, "tasks": tasks, "embedding_dimensions": 4})
    worker.announce()


def test_a_model_of_embeddings_varies_a_picture_without_words(
    run: Run, of_embeddings: None, hand: Hand, folder: Path
) -> None:
    done = run("vary", "photo.jpg", "--model", "starter", "-n", "2", "--seed", "3", "-o", "out.png")
    assert done.exit_code == 0, done.stderr
    spec = hand.claims[0].spec
    assert (spec.prompt, spec.image, spec.num_images, spec.seed) == ("", None, 2, 3)
    assert spec.image_embedding is not None
    (point,) = spec.image_embedding.points
    assert point.of is not None
    assert point.of.content_type == "image/jpeg"
    assert "image embedding: of" in run("jobs", "list").stdout


def test_a_print_of_such_a_model_is_varied_by_it(run: Run, of_embeddings: None, hand: Hand, folder: Path) -> None:
    a_print(folder, num_inference_steps=9)
    assert run("vary", "out.png", "a frog", "-o", "new.png").exit_code == 0
    spec = hand.claims[0].spec
    assert (spec.prompt, spec.num_inference_steps, spec.image, spec.width) == ("a frog", 9, None, 64)
    assert spec.image_embedding is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("edit", "nowhere.png", "a"), "nowhere.png cannot be read"),
        (("edit", "text.png", "a"), "text.png is no PNG, JPEG or WebP picture"),
        (("edit", "cut.jpg", "a"), "cut.jpg is"),
        (("edit", "photo.jpg"), "give a prompt"),
        (("edit", "-", "--file", "-"), "prompts and a picture cannot both come from stdin"),
        (("edit", "-", "a", "--mask", "-"), "only one picture can come from stdin"),
        (("edit", "photo.jpg", "a", "--mask", "edges.webp", "--strength", "7"), "--strength"),
        (("edit", "photo.jpg", "a", "--mask", "wide.png"), "--mask must have the shape of image: 96 x 96"),
        (("generate", "a", "--strength", "0.5"), "--strength goes with"),
        (("generate", "a", "--mask", "mask.png"), "--mask goes with"),
        (("generate", "a", "--lora", "ink", "--lora", "inc"), "--lora inc is unknown"),
        (("generate", "a", "--lora", "ink:9"), "--lora ink weight Input should be less than or equal to 4"),
        (("generate", "a", "--control", "canny"), "--control canny must be MODEL=FILE or MODEL=FILE:SCALE"),
        (("generate", "a", "--control", "cany=edges.webp"), "did you mean canny?"),
        (("generate", "a", "--control", "canny=nowhere.png"), "nowhere.png cannot be read"),
        (("generate", "a", "--control", "canny=edges.webp:9"), "--control canny scale Input should be less"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused_before_anything_is_drawn(
    run: Run, hand: Hand, folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    (folder / "text.png").write_text("no picture")
    (folder / "cut.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:300])
    file = io.BytesIO()
    Image.new("RGB", (96, 64)).save(file, "png")
    (folder / "wide.png").write_bytes(file.getvalue())
    done = run(*arguments)
    assert (done.exit_code, hand.claims) == (2, []), done.stderr
    assert said in done.stderr


def test_nobody_is_there(run: Run, folder: Path) -> None:
    with no_service() as url:
        done = run("edit", "photo.jpg", "a boat", "--url", url)
    assert done.exit_code == 3
    assert "darkroom edit: no service at" in done.stderr


def test_a_picture_is_kept_once(run: Run, hand: Hand, folder: Path, gateway: Running) -> None:
    for number in range(2):
        assert run("edit", "photo.jpg", "a boat", "-o", f"{number}.png").exit_code == 0
    one, other = (claim.spec.image for claim in hand.claims)
    assert one == other is not None


def test_an_edit_is_drawn_again_from_its_record_while_its_picture_is_kept(
    run: Run, hand: Hand, folder: Path, gateway: Running
) -> None:
    kind = {"Content-Type": "image/jpeg"}
    kept = gateway.client.post("/v1/inputs", content=(folder / "photo.jpg").read_bytes(), headers=kind).json()
    image = {name: kept[name] for name in ("sha256", "width", "height", "content_type")}
    a_print(folder, image=image, strength=0.5)
    run("reproduce", "out.png")
    spec = hand.claims[0].spec
    assert spec.image is not None
    assert (spec.image.sha256, spec.strength, spec.seed) == (kept["sha256"], 0.5, 5)
    assert gateway.client.delete(f"/v1/inputs/{kept['id']}").status_code == 204
    gone = run("reproduce", "out.png")
    assert gone.exit_code == 2
    assert "it was drawn from a picture that is not kept here any more: image.sha256" in gone.stderr


def test_files_beside_the_model_that_are_others_here_are_told_beforehand(
    run: Run, hand: Hand, worker: ScriptedWorker, folder: Path
) -> None:
    """Of depth the worker does not know the hash yet."""
    then, now = "a" * 64, "b" * 64
    worker.card = worker.card.model_copy(
        update={
            "loras": (Adapter(name="ink", sha256=now), Adapter(name="oil", sha256=then)),
            "controls": (Adapter(name="canny", sha256=now), Adapter(name="depth")),
            "embeddings": ("<ash>", "<elm>"),
            "embedding_files": {"<ash>": now, "<elm>": then},
        }
    )
    worker.announce()
    files = {
        "lora_files": {"ink": then, "oil": then},
        "controlnets": {"canny": then, "depth": then},
        "embedding_files": {"<ash>": then, "<elm>": then, "<oak>": then},
    }
    a_print(folder, **files)
    prefix = "darkroom reproduce: "
    lines = run("reproduce", "out.png").stderr.splitlines()
    said = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    about = [line.partition(":")[0] for line in said]
    assert [each for each in about if any(kind in each for kind in ("ControlNet", "LoRA", "inversion"))] == [
        "another ControlNet canny",
        "another LoRA ink",
        "another textual inversion <ash>",
        "the textual inversion <oak> is not here",
    ]
    assert "another LoRA ink: the picture is from aaaaaaaaaa, here it is bbbbbbbbbb; expect another picture" in said


def test_ctrl_c_calls_off_what_is_drawn_again(gateway: Running, hand: Hand, folder: Path) -> None:
    a_print(folder, prompt="wait")
    with begun(gateway, "reproduce", "out.png", cwd=folder) as process:
        until(lambda: hand.claims)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, "Traceback" in said) == (130, False)
    assert "darkroom reproduce: canceled 1 job" in said
    until(lambda: [job["status"] for job in gateway.client.get("/v1/jobs").json()["data"]] == ["canceled"])


@pytest.mark.parametrize("command", ["reproduce", "vary"])
def test_a_strangers_record_makes_nobody_fetch_anything(
    run: Run, hand: Hand, folder: Path, gateway: Running, command: str
) -> None:
    """A record names pictures by hash; a link or a job in its place is not sent on."""
    with no_service() as url:
        a_print(folder, image={"url": url}, control=[{"model": "canny", "image": {"job": f"job_{'0' * 24}"}}])
        done = run(command, "out.png", "-o", "new.png")
    assert (done.exit_code, hand.claims) == (2, [])
    assert "must name one picture" in done.stderr
