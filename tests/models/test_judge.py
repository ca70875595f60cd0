"""Doctor and worker give one verdict on a folder, whatever is wrong with it, and read no weights for it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from safetensors.torch import save_file

import worker.models.bundle
from tests.models.spoilt import (
    TEXT,
    UNET,
    VAE,
    Spoiling,
    both,
    configure,
    cut_short,
    drop_a_tensor,
    folder_instead,
    forget,
    link,
    pipe,
    reheader,
    remove,
    retensor,
    shard,
    write,
)
from tests.waiting import WAIT_SECONDS
from worker.examine import examine
from worker.machine import Room
from worker.models import place
from worker.models.bundle import ModelError, load
from worker.models.configs import CLASS_DEFAULTS
from worker.models.folder import ModelFolder
from worker.models.judge import Verdict, judge
from worker.models.need import Rooms
from worker.models.quiet import quiet_libraries
from worker.settings import BUNDLED_MODEL

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3438167540\n"
CONV_IN = "conv_in.weight"


def twice(header: dict[str, Any]) -> None:
    """Two tensors in the same bytes."""
    header["conv_in.bias"]["data_offsets"] = header["conv_out.weight"]["data_offsets"][:1] * 2
    header["conv_in.bias"]["shape"] = [0]
    header["conv_in.bias"]["data_offsets"][1] += 0
    first, second = "conv_norm_out.weight", "conv_norm_out.bias"
    header[first]["data_offsets"] = header[second]["data_offsets"]


FINDINGS: dict[str, tuple[Spoiling, str]] = {
    "pointer file in the place of weights": (write(UNET, POINTER), "git lfs pull"),
    "truncated file": (cut_short(UNET, leave=-1000), "cut short"),
    "cut short within its header": (cut_short(TEXT, leave=1000), "cut short"),
    "a shard is missing": (
        shard(UNET, lambda folder, index: (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()),
        "00002-of-00002.safetensors is missing",
    ),
    "a tensor of the UNet is missing": (drop_a_tensor(UNET, CONV_IN), "lack 1 tensors, e.g. conv_in.weight"),
    "a tensor of the text encoder is missing": (drop_a_tensor(TEXT, "final_layer_norm.bias"), "lack 1 tensors"),
    "a tensor of another shape": (
        retensor(UNET, lambda tensors: tensors.update({CONV_IN: torch.zeros(32, 4, 1, 1)})),
        "another shape than config.json tells",
    ),
    "no unet/config.json": (remove("unet/config.json"), "unet/config.json is missing"),
    "a tokenizer without merges": (remove("tokenizer/merges.txt", "tokenizer/tokenizer.json"), "merges.txt is missing"),
    "an empty tokenizer folder": (
        remove("tokenizer/merges.txt", "tokenizer/tokenizer.json", "tokenizer/vocab.json"),
        "vocab.json is missing",
    ),
    "a UNet with nine input channels": (
        both(
            configure("unet/config.json", in_channels=9),
            retensor(UNET, lambda tensors: tensors.update({CONV_IN: torch.zeros(32, 9, 3, 3)})),
        ),
        "in_channels=9: it was trained for inpainting; write StableDiffusionInpaintPipeline",
    ),
    "an unknown default scheduler": (write("darkroom.json", '{"scheduler": "warp_drive"}'), "warp_drive does not work"),
    "no weights of the VAE": (remove(VAE), "has no diffusion_pytorch_model.safetensors"),
    "a scheduler's configuration is no JSON": (write("scheduler/scheduler_config.json", "{"), "no readable JSON"),
}
"""The fourteen of the first users."""

OURS: dict[str, tuple[Spoiling, str]] = {
    "an empty file": (write(VAE), "is empty"),
    "pickled weights under a good name": (write(UNET, b"PK\x03\x04" + bytes(100)), "pickled weights"),
    "a web page in the place of weights": (write(UNET, "<!DOCTYPE html><title>Log in</title>"), "is a web page"),
    "something else in the place of weights": (write(UNET, "weights, " * 99), "no safetensors file"),
    "the header's length lies": (reheader(UNET, lambda header: None, length=9), "a damaged header"),
    "tensors overlap": (reheader(UNET, twice), "overlap or leave gaps"),
    "bytes after the last tensor": (
        lambda folder: (folder / UNET).write_bytes((folder / UNET).read_bytes() + b"more"),
        "4 bytes after",
    ),
    "a type that nobody knows": (reheader(UNET, lambda header: header[CONV_IN].update(dtype="F7")), "an unknown type"),
    "a shape that lies": (reheader(UNET, lambda header: header[CONV_IN].update(shape=[1])), "another size"),
    "a configuration is no JSON": (write("unet/config.json", "{"), "no readable JSON"),
    "a configuration is nonsense": (configure("unet/config.json", block_out_channels=[32]), "cannot be loaded"),
    "a configuration of other types": (configure("text_encoder/config.json", hidden_size="wide"), "impossible value"),
    "a scheduler's configuration is nonsense": (
        configure("scheduler/scheduler_config.json", beta_schedule="steep"),
        "scheduler cannot be loaded",
    ),
    "a class of others": (configure("model_index.json", unet=["diffusers", "UNet2DModel"]), "UNet2DModel; supported"),
    "a scheduler of others": (
        configure("model_index.json", scheduler=["diffusers", "KarrasVeScheduler"]),
        "is a KarrasVeScheduler",
    ),
    "a text encoder too wide": (configure("unet/config.json", cross_attention_dim=64), "cross_attention_dim=64"),
    "latents of other channels": (configure("vae/config.json", latent_channels=16), "in_channels=4"),
    "a VAE without scaling factor": (configure("vae/config.json", scaling_factor=None), "scaling_factor=None"),
    "a native size that is none": (configure("unet/config.json", sample_size=0), "sample_size=0"),
    "quantized weights": (
        retensor(UNET, lambda tensors: tensors.update({CONV_IN: tensors[CONV_IN].to(torch.int8)})),
        "are quantized",
    ),
    "a configuration for a quantizer": (
        configure("unet/config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "unet is quantized",
    ),
    "a loop of links": (link(UNET, "diffusion_pytorch_model.safetensors"), "is out of reach"),
    "a link to nothing": (link(UNET, "../../blobs/gone"), "is a link to nothing"),
    "a folder in the place of a file": (folder_instead(UNET), "is a folder, not a file"),
    "a pipe in the place of a file": (pipe(UNET), "is not a file that can be read"),
    "an index of files elsewhere": (
        shard(UNET, lambda folder, index: index["weight_map"].update({CONV_IN: "../vae/x.safetensors"})),
        "which is no safetensors file beside it",
    ),
    "an index that names what is not there": (
        shard(UNET, lambda folder, index: index["weight_map"].update(ghost=index["weight_map"][CONV_IN])),
        "disagree about ghost",
    ),
    "an index without a map": (shard(UNET, lambda folder, index: index.pop("weight_map")), "has no weight_map"),
    "merges that are none": (
        lambda folder: _edit_tokenizer(folder, lambda tokenizer: tokenizer["model"].update(merges=[])),
        "has no merges",
    ),
    "more tokens than the encoder knows": (configure("text_encoder/config.json", vocab_size=100), "its text encoder"),
    "pickled weights beside the good ones": (write("unet/diffusion_pytorch_model.bin"), "rm "),
    "no model_index.json": (remove("model_index.json"), "from_single_file"),
    "a folder of others": (configure("model_index.json", _class_name="FluxPipeline"), "holds a FluxPipeline"),
}

ASIDE: dict[str, tuple[Spoiling, str]] = {
    "index cut short": (write("model_index.json", '{"_class'), "no readable JSON"),
    "index is a list": (write("model_index.json", "[]"), "must hold a JSON object"),
    "index too deep": (write("model_index.json", "[" * 100_000), "no readable JSON"),
    "custom pipeline": (configure("model_index.json", _class_name=["pipeline", "Mine"]), "supported families"),
    "custom unet": (configure("model_index.json", unet=["my_code", "MyUNet"]), "supported: UNet2DConditionModel"),
    "other vae": (configure("model_index.json", vae=["diffusers", "VQModel"]), "AutoencoderKL or AutoencoderTiny"),
    "unet not named": (configure("model_index.json", unet=[None, None]), "names no unet"),
    "no vae folder": (remove("vae"), "has no folder vae"),
    "code": (write("unet/modeling.py"), "program code"),
    "only pickled weights": (
        both(remove(UNET), write("unet/diffusion_pytorch_model.bin")),
        "P.from_pretrained(",
    ),
    "tokenizer damaged": (write("tokenizer/tokenizer.json", "{"), "no readable JSON"),
    "tokenizer of another kind": (write("tokenizer/tokenizer.json", "{}"), "has no vocabulary"),
    "guidance-distilled unet": (configure("unet/config.json", time_cond_proj_dim=32), "time_cond_proj_dim=32"),
    "defaults damaged": (write("darkroom.json", "{"), "no readable JSON"),
    "defaults misspelt": (write("darkroom.json", '{"num_steps": 20}'), "wrong entry (num_steps)"),
    "defaults impossible": (write("darkroom.json", '{"max_steps": -1}'), "wrong entry (max_steps)"),
    "manifest unreadable": (write("sha256sums.txt", "hello\n"), "sha256sum would not write"),
    "manifest incomplete": (write("sha256sums.txt", f"{'0' * 64}  model_index.json\n"), "not listed in"),
}
"""What the libraries are not asked: other models, and files of our own."""

SILENT = {
    "an empty tokenizer folder",  # a tokenizer of two tokens is made, and every prompt is unknown
    "merges that are none",  # prompts would be read letter by letter
    "quantized weights",  # integers are taken for the weights they stand for
    "a UNet with nine input channels",  # this and the next three: every picture would fail
    "an unknown default scheduler",
    "a VAE without scaling factor",
    "a native size that is none",
    "a scheduler of others",
    "an index that names what is not there",  # files of two models
    "pickled weights beside the good ones",  # nobody opens them here; another program may
}
"""What the libraries would have loaded."""


def _edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil, whose tokenizer is there in both layouts."""
    copy = shutil.copytree(whole_folder, tmp_path / "tiny")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(BUNDLED_MODEL / "tokenizer" / name, copy / "tokenizer")
    return copy


@pytest.mark.parametrize("what", [*FINDINGS, *OURS, *ASIDE])
def test_doctor_says_what_the_worker_says(folder: Path, what: str) -> None:
    spoil, words = (FINDINGS | OURS | ASIDE)[what]
    spoil(folder)
    with pytest.raises(ModelError) as refusal:
        load(folder)
    told = examine(folder)["model"]["faults"]
    assert refusal.value.faults == tuple(told)
    assert words in " ".join(told)
    assert all(str(folder) in fault and fault.endswith(".") and "\n" not in fault for fault in told)


@pytest.mark.parametrize("what", [*FINDINGS, *OURS])
def test_the_libraries_say_the_same(folder: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the judge, loading fails as well, or what is loaded is not the model."""
    whole = judge(folder)
    (FINDINGS | OURS)[what][0](folder)

    def blind(path: Path, **_: Any) -> Verdict:
        return dataclasses.replace(whole, folder=ModelFolder(path))

    monkeypatch.setattr(worker.models.bundle, "judge", blind)
    if what in SILENT:
        load(folder)
        return
    with pytest.raises(ModelError):
        load(folder)


def test_all_faults_are_told_at_once(folder: Path) -> None:
    for what in ("pointer file in the place of weights", "an empty file", "a tokenizer without merges"):
        (FINDINGS | OURS)[what][0](folder)
    write("vae/old.bin")(folder)
    write("unet/modeling.py")(folder)
    (folder / "darkroom.json").write_text('{"max_stops": 8}')
    told = judge(folder).faults
    for words in ("git lfs pull", "is empty", "merges.txt is missing", "unet/modeling.py, vae/old.bin", "max_stops"):
        assert sum(words in fault for fault in told) == 1, (words, told)


ATTENTION_OF_2022 = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

GOOD: dict[str, Spoiling] = {
    "as it is": lambda folder: None,
    "weights in several files": both(shard(UNET), shard(TEXT), shard(VAE)),
    "weights in float16": retensor(UNET, lambda tensors: _turn_into(torch.float16, tensors)),
    "weights in bfloat16": retensor(TEXT, lambda tensors: _turn_into(torch.bfloat16, tensors)),
    "weights in float8": retensor(VAE, lambda tensors: _turn_into(torch.float8_e4m3fn, tensors)),
    "names of 2022 in the VAE": retensor(VAE, lambda tensors: _rename(tensors, ATTENTION_OF_2022)),
    "names of 2022 in the text encoder": retensor(TEXT, lambda tensors: _as_in_2022(tensors)),
    "a tokenizer in the new layout": remove("tokenizer/vocab.json", "tokenizer/merges.txt"),
    "a tokenizer in the old layout": remove("tokenizer/tokenizer.json"),
    "a header of a length that looks like a pickle": lambda folder: _pad_header(folder / UNET),
    "a VAE that leaves its scaling factor to the class": forget("vae/config.json", "scaling_factor"),
    "a UNet that does not say its size": configure("unet/config.json", sample_size=None),
    "a whole clone": both(
        write("safety_checker/pytorch_model.bin"),
        write("v1-5-pruned.ckpt"),
        write("hooks/pre-commit.py"),
        write("unet/openvino_model.bin"),
        write("unet/openvino_model.xml"),
        write("unet/flax_model.msgpack"),
        write("vae_decoder/model.bin"),
    ),
}


def _pad_header(file: Path) -> None:
    """Blanks after the header are allowed, up to a length whose lowest byte is 0x80, with which pickles begin."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    longer = length + (0x80 - length) % 0x100
    header = content[8 : 8 + length].ljust(longer)
    file.write_bytes(longer.to_bytes(8, "little") + header + content[8 + length :])


def _turn_into(dtype: torch.dtype, tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})


def _rename(tensors: dict[str, torch.Tensor], words: dict[str, str]) -> None:
    for name in list(tensors):
        for new, old in words.items():
            if f".{new}." in name:
                tensors[name.replace(f".{new}.", f".{old}.")] = tensors.pop(name)


def _as_in_2022(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"text_model.{name.removeprefix('text_model.')}"] = tensors.pop(name)
    tensors["text_model.embeddings.position_ids"] = torch.arange(32).reshape(1, 32)


@pytest.mark.parametrize("what", GOOD)
def test_a_good_folder_passes_and_loads(folder: Path, what: str) -> None:
    GOOD[what](folder)
    assert examine(folder)["model"]["faults"] == ()
    bundle = load(folder)
    parts = (bundle.unet, bundle.vae, bundle.text_encoder)
    assert not any(tensor.is_meta for part in parts for tensor in part.state_dict().values())
    assert {part.dtype for part in parts} == {torch.float32}


def test_files_that_nobody_opens_change_nothing(folder: Path) -> None:
    before = load(folder).sha256
    GOOD["a whole clone"](folder)
    write("unet/diffusion_pytorch_model.non_ema.safetensors", "of somebody's training")(folder)
    write("tokenizer/notes.txt", "mine")(folder)
    (folder / "vae" / "pipe").mkdir()
    os.mkfifo(folder / "scheduler" / "pipe")  # whoever reads that waits for ever
    assert load(folder).sha256 == before


def test_a_size_that_nobody_tells_is_the_familys(folder: Path, whole_xl_folder: Path, tmp_path: Path) -> None:
    xl = shutil.copytree(whole_xl_folder, tmp_path / "xl")
    for path, side in ((folder, 512), (xl, 1024)):
        configure("unet/config.json", sample_size=None)(path)
        verdict = judge(path)
        assert verdict.defaults is not None
        assert (verdict.defaults.width, verdict.defaults.height, verdict.faults) == (side, side, ())
        assert "does not say at which size" in verdict.notes[0]
        (path / "darkroom.json").write_text('{"width": 64, "height": 64, "min_side": 32}')
        assert judge(path).notes == ()


OF_PIPELINES = {
    "StableUnCLIPImageNormalizer": StableUnCLIPImageNormalizer,
    "UnCLIPTextProjModel": UnCLIPTextProjModel,
}
NEEDED = {"UnCLIPTextProjModel": {"time_embed_dim": 8, "cross_attention_dim": 8}}
"""Without defaults."""


@pytest.mark.parametrize("name", CLASS_DEFAULTS)
def test_what_a_configuration_leaves_out_is_as_in_the_class(name: str) -> None:
    # Numbers for all weights of full size would take seconds to draw.
    with quiet_libraries(), torch.device("meta"):
        of_transformers = transformers.CLIPVisionConfig if "Vision" in name else transformers.CLIPTextConfig
        cls = getattr(diffusers, name, OF_PIPELINES.get(name))
        made = cls(**NEEDED.get(name, {})).config if cls else of_transformers().to_dict()
    said = {key: tuple(value) if isinstance(value, list) else value for key, value in made.items()}
    assert {key: said[key] for key in CLASS_DEFAULTS[name]} == CLASS_DEFAULTS[name]


def test_no_weights_are_read(folder: Path) -> None:
    """The text encoder's file has a hole of a terabyte in the place of its vocabulary's numbers: whoever reads or
    copies it never comes back. What this process reads from files is counted, as well."""
    tokens = 1 << 33
    configure("text_encoder/config.json", vocab_size=tokens)(folder)

    def grow(header: dict[str, Any]) -> None:
        name = next(name for name in header if name.endswith("token_embedding.weight"))
        header[name]["shape"][0] = tokens
        start, end = header[name]["data_offsets"]
        more = tokens * header[name]["shape"][1] * 4 - (end - start)
        header[name]["data_offsets"][1] += more
        for entry in header.values():
            if "dtype" in entry and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [offset + more for offset in entry["data_offsets"]]
        sizes.append(more)

    sizes: list[int] = []
    reheader(TEXT, grow)(folder)
    os.truncate(folder / TEXT, (folder / TEXT).stat().st_size + sizes[0])
    small = sum(file.stat().st_size for file in folder.rglob("*.*") if file.suffix in (".json", ".txt"))
    before = _bytes_read()
    verdict = judge(folder)
    read = _bytes_read() - before
    assert verdict.faults == ()
    assert verdict.need is not None
    assert verdict.need.weights > 1e12
    assert read < 6 * small + 200_000, (read, small)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().splitlines()[0].split()[1])


WITHOUT_TORCH = """
import json, sys
from pathlib import Path
for name in ("torch", "diffusers", "transformers", "safetensors", "accelerate", "numpy"):
    sys.modules[name] = None
from worker.examine import examine
print(json.dumps([examine(Path(path))["model"] for path in sys.argv[1:]]))
"""


def test_without_torch_it_says_what_is_open(whole_folder: Path, folder: Path) -> None:
    FINDINGS["pointer file in the place of weights"][0](folder)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(whole_folder), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT_SECONDS)
    # A machine short of memory logs that first.
    good, bad = json.loads(done.stdout.splitlines()[-1])
    assert good["faults"] == []
    assert "names and shapes of tensors" in good["unjudged"]
    assert ["git lfs pull" in fault for fault in bad["faults"]] == [True]


SINGLE_FILES = {
    "xl.safetensors": ("conditioner.embedders.1.model.x", "StableDiffusionXLPipeline"),
    "one.safetensors": ("cond_stage_model.transformer.x", "checkpoint of Stable Diffusion 1.x"),
    "two.safetensors": ("cond_stage_model.model.x", "checkpoint of Stable Diffusion 2.x"),
    "bare.safetensors": ("model.diffusion_model.x", "a denoiser without its text encoder"),
    "style.safetensors": ("lora_unet_x.lora_down.weight", "is a LoRA"),
    "vae.safetensors": ("decoder.x", "one part of a model"),
}


@pytest.mark.parametrize("name", SINGLE_FILES)
def test_a_single_file_is_told_what_it_is(tmp_path: Path, name: str) -> None:
    tensor, words = SINGLE_FILES[name]
    save_file({tensor: torch.zeros(1)}, tmp_path / name)
    [fault] = judge(tmp_path / name).faults
    assert words in fault
    assert "\n" not in fault
    if "from_single_file" in fault:
        [_, command, _] = re.split(r"python -c |, and name ", fault)
        assert compile(shlex.split(command)[0], "command", "exec")


@pytest.mark.parametrize(
    ("name", "words"),
    [("v1-5.ckpt", "pickled"), ("model.gguf", "is a file"), ("a.safetensors", "is empty"), ("none", "does not exist")],
)
def test_other_files_are_told_what_to_name(tmp_path: Path, name: str, words: str) -> None:
    if name != "none":
        (tmp_path / name).touch()
    [fault] = judge(tmp_path / name).faults
    assert words in fault


def test_memory_that_ends_while_loading_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(worker.models.parts, "_load_weights", full)
    with pytest.raises(ModelError, match=r"not enough memory to load .* GB of weights as float32"):
        load(folder)


GIB = float(2**30)


@pytest.mark.parametrize(
    ("rooms", "fault", "note"),
    [
        (Rooms(Room(8 * GIB, 8 * GIB, "this machine")), "", ""),
        (Rooms(Room(0.5 * GIB, 0.5 * GIB, "the control group x")), "the control group x has 0.5 GB", ""),
        (Rooms(Room(8 * GIB, 0.5 * GIB, "this machine")), "", "only 0.5 GB of this machine is free"),
        (Rooms(Room(8 * GIB, 8 * GIB, "the GPU"), Room(0.5 * GIB, 8 * GIB, "this machine")), "this machine has", ""),
        (Rooms(Room(0.1 * GIB, 0.1 * GIB, "the GPU"), Room(8 * GIB, 8 * GIB, "this machine")), "the GPU has", ""),
    ],
    ids=["enough", "never", "close", "through a small machine", "small GPU"],
)
def test_memory_is_compared_before_anything_is_loaded(whole_folder: Path, rooms: Rooms, fault: str, note: str) -> None:
    verdict = judge(whole_folder, rooms=rooms)
    assert len(verdict.faults) == bool(fault)
    assert len(verdict.notes) == bool(note)
    assert fault in " ".join(verdict.faults)
    assert note in " ".join(verdict.notes)
    assert all("set DARKROOM_DTYPE=bfloat16, which halves it" in told for told in verdict.faults + verdict.notes)


def test_what_is_needed_follows_the_type(whole_xl_folder: Path) -> None:
    """The weights as they will lie in memory, whatever they are on disk: SDXL's VAE stays in float32."""
    full, half, brain = (judge(whole_xl_folder, dtype=dtype).need for dtype in ("float32", "float16", "bfloat16"))
    assert full is not None
    assert half is not None
    assert brain is not None
    bundle = load(whole_xl_folder, dtype="float16")
    assert half.weights == bundle.weights_bytes
    assert full.weights == 2 * brain.weights
    assert brain.weights < half.weights < full.weights
    assert (full.decode, full.step) == (half.decode, 2 * half.step)


def test_the_worker_is_told_as_well(whole_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model can never fit, it is not loaded; where it is close, a line of the log says so."""
    monkeypatch.setattr(place, "main_memory", lambda: Room(0.1 * GIB, 0.1 * GIB, "this machine"))
    monkeypatch.setattr(worker.models.parts, "_load_weights", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ModelError, match=r"needs .* GB of memory .*, and this machine has 0\.1 GB"):
        load(whole_folder)
    assert "this machine has 0.1 GB" in examine(whole_folder)["model"]["faults"][0]
