"""Parts of a model that load, but were not made for each other or need an input that text to image does not have.

Reads configurations only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from worker.models.configs import Config, last_network
from worker.models.fit_decoders import kandinsky_misfits, karlo_misfits
from worker.models.folder import ModelFolder
from worker.models.pipelines import KANDINSKY, KANDINSKY_DECODER, KARLO

SIZES = 6
"""Numbers about sizes that SDXL's UNet reads: original height and width, top and left of the crop, target height and
width."""

CLIP_NAME = re.compile(r"vit-?(bigg|g|h|l|b)")
"""How large a CLIP is, in the names of those that are published: CLIP-ViT-H-14-laion2B, clip-vit-large-patch14."""

OTHERS = {
    KANDINSKY.name: kandinsky_misfits,
    KANDINSKY_DECODER.name: kandinsky_misfits,
    KARLO.name: karlo_misfits,
}
"""Of pipelines whose UNet reads no context of texts alone."""

PLAIN = "take a plain Stable Diffusion 1.x, 2.x or XL base model."


def misfits(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    """One sentence for each, with the remedy. `configs` are those of all parts that have weights."""
    yield from _wrong_types(folder, configs)
    if other := OTHERS.get(folder.pipeline.name):
        yield from other(folder, configs)
        return
    yield from _of_unet(folder, configs)
    yield from _of_vae(folder, configs["vae"])
    yield from _of_embeddings(folder, configs)


def _of_unet(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    unet, second = configs["unet"], configs.get("text_encoder_2")
    latents, inputs = configs["vae"]["latent_channels"], folder.pipeline.unet_inputs
    masked = 2 * latents + 1
    unsupported = {
        "in_channels": unet["in_channels"] not in ((latents, masked) if folder.pipeline.repaints else (latents,)),
        "out_channels": unet["out_channels"] != latents,
        "cross_attention_dim": unet["cross_attention_dim"] != _context_width(configs),
        "class_embed_type": unet["class_embed_type"] != ("projection" if folder.pipeline.reads_embeddings else None),
        "num_class_embeds": unet["num_class_embeds"] is not None,
        "addition_embed_type": unet["addition_embed_type"] not in (("text_time",) if second else (None, "text")),
        "encoder_hid_dim_type": unet["encoder_hid_dim_type"] is not None,
        "time_cond_proj_dim": (unet["time_cond_proj_dim"] is None) == ("time_cond_proj_dim" in inputs),
    }
    if second:
        beside_the_text = second["projection_dim"] + SIZES * (unet["addition_time_embed_dim"] or 0)
        unsupported["projection_class_embeddings_input_dim"] = (
            unet["projection_class_embeddings_input_dim"] != beside_the_text
        )
    if folder.pipeline.reads_embeddings:
        # The embedding, and as many numbers that say how noisy it is.
        label = 2 * configs["image_normalizer"]["embedding_dim"]
        unsupported["projection_class_embeddings_input_dim"] = unet["projection_class_embeddings_input_dim"] != label
    if unet["in_channels"] == masked and not folder.pipeline.repaints:
        theirs = folder.pipeline.name.replace("Pipeline", "InpaintPipeline")
        yield (
            f"The UNet of {folder.path} has in_channels={masked}: it was trained for inpainting; "
            f"write {theirs} as _class_name into model_index.json."
        )
        del unsupported["in_channels"]
    for key, wrong in unsupported.items():
        if wrong:
            yield f"The UNet of {folder.path} has {key}={unet[key]}, which this engine cannot serve; {PLAIN}"


def _context_width(configs: Mapping[str, Config]) -> int:
    """Numbers in each token that the UNet reads: of the texts, or the one of a picture."""
    if "text_encoder" not in configs:
        return int(configs["image_encoder"]["projection_dim"])
    second = configs.get("text_encoder_2")
    return int(configs["text_encoder"]["hidden_size"] + (second["hidden_size"] if second else 0))


def _of_embeddings(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    """A sentence for each number in which parts differ that hand image embeddings to each other."""
    if "image_normalizer" not in configs:
        return
    if len(named := folder.components.keys() & folder.pipeline.optional.keys()) == 1:
        yield (
            f"model_index.json in {folder.path} names {min(named)} alone: an image_encoder and a feature_extractor go "
            "together; name both, or neither."
        )
    space = configs["image_normalizer"]["embedding_dim"]
    encoder, reads = configs.get("image_encoder"), configs.get("prior_text_encoder")
    if encoder:
        yield from _differing(folder, "image_encoder", encoder["projection_dim"], "image_normalizer", space)
    if (prior := configs.get("prior")) and reads:
        inner = prior["embedding_dim"]
        yield from _differing(folder, "prior", prior["clip_embed_dim"] or inner, "image_normalizer", space)
        text = prior["embedding_proj_dim"] or inner
        yield from _differing(folder, "prior", text, "prior_text_encoder", reads["projection_dim"])
        yield from _differing(folder, "prior", inner, "prior_text_encoder", reads["hidden_size"], "numbers a token")
        tokens = prior["num_embeddings"], reads["max_position_embeddings"]
        yield from _differing(folder, "prior", tokens[0], "prior_text_encoder", tokens[1], "tokens")
    if encoder and reads:
        yield from _of_two_clips(folder, encoder, reads)


def _of_two_clips(folder: ModelFolder, encoder: Config, reads: Config) -> Iterator[str]:
    """A sentence about an image encoder and a text encoder that were not trained with each other, though their vectors
    are equally long: by the names they came under, and by their activation, which a CLIP's two towers share."""
    names = [CLIP_NAME.search(str(each.get("_name_or_path")).lower()) for each in (encoder, reads)]
    sizes = [name[1] if name else None for name in names]
    for what, one, other in (("", *sizes), ("activation ", encoder["hidden_act"], reads["hidden_act"])):
        if one and other and one != other:
            yield (
                f"The image_encoder of {folder.path} is of another CLIP than its prior_text_encoder ({what}{one} and "
                f"{other}): what the prior makes is not what the decoder reads; take parts of one CLIP."
            )


def _differing(
    folder: ModelFolder, one: str, its: int, other: str, theirs: int, what: str = "dimensions"
) -> Iterator[str]:
    if its != theirs:
        yield (
            f"The {one} of {folder.path} is for embeddings of {its} {what}, its {other} for {theirs}: they are of two "
            "models; take parts that were trained with one CLIP."
        )


def _of_vae(folder: ModelFolder, vae: Config) -> Iterator[str]:
    for key in ("latents_mean", "latents_std", "shift_factor"):
        if vae.get(key):
            yield f"The VAE of {folder.path} has {key}, which this engine cannot serve; {PLAIN}"


def _wrong_types(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    """Values with which a configuration is none: the classes take some of them and fail later."""
    size = last_network(configs)["sample_size"]
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if size is not None and not all(_is_natural(side) for side in sides):
        yield _wrong(folder, "super_res_last" if "super_res_last" in configs else "unet", "sample_size", size)
    scale = configs["vae"]["scaling_factor"] if "vae" in configs else 1
    if not isinstance(scale, int | float) or not math.isfinite(scale) or not scale > 0:
        yield _wrong(folder, "vae", "scaling_factor", scale)


def _wrong(folder: ModelFolder, component: str, key: str, value: Any) -> str:
    return f"{folder.config_file(component)} has {key}={value!r:.100}, which is impossible; fetch the file again."


def _is_natural(value: Any) -> bool:
    return type(value) is int and value > 0
