"""Parts of Kandinsky 2.2 and of Karlo that load, but were not made for each other. Reads configurations only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from worker.models.configs import Config, prior_dimensions
from worker.models.folder import ModelFolder

ONE_MODEL = "fetch all parts from one model"


def kandinsky_misfits(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    """One sentence for each, with the remedy."""
    unet, latents = configs["unet"], configs["vae"]["latent_channels"]
    space = prior_dimensions(configs["prior"])
    yield from _unlike(
        folder,
        "unet",
        unet,
        {
            "in_channels": latents,
            # What it predicts, and of which variance.
            "out_channels": 2 * latents,
            "addition_embed_type": "image",
            "encoder_hid_dim_type": "image_proj",
            "encoder_hid_dim": space,
            "class_embed_type": None,
        },
    )
    if configs["vae"]["vq_embed_dim"] is not None:
        yield from _unlike(folder, "vae", configs["vae"], {"vq_embed_dim": latents})
    yield from _unlike(folder, "image_encoder", configs["image_encoder"], {"projection_dim": space})
    yield from _of_prior(folder, configs)


def karlo_misfits(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    """One sentence for each, with the remedy."""
    first, last, text_proj = (configs[name] for name in ("super_res_first", "super_res_last", "text_proj"))
    decoder, space = configs["unet"], prior_dimensions(configs["prior"])
    yield from _unlike(
        folder,
        "unet",
        decoder,
        {
            "in_channels": 3,
            # Pixels, and of which variance.
            "out_channels": 6,
            "class_embed_type": "identity",
            "cross_attention_dim": text_proj["cross_attention_dim"],
            "addition_embed_type": None,
            "encoder_hid_dim_type": None,
        },
    )
    if not isinstance(decoder["sample_size"], int):
        yield f"{folder.config_file('unet')} has sample_size={decoder['sample_size']}; {ONE_MODEL}."
    for name, network in (("super_res_first", first), ("super_res_last", last)):
        # Its picture so far, and the small one.
        sides = {"in_channels": 6, "out_channels": 3, "sample_size": last["sample_size"]}
        yield from _unlike(folder, name, network, sides)
    if not isinstance(last["sample_size"], int):
        yield f"{folder.config_file('super_res_last')} has sample_size={last['sample_size']}; {ONE_MODEL}."
    yield from _unlike(folder, "text_proj", text_proj, {"clip_embeddings_dim": space})
    yield from _unlike(folder, "prior_text_encoder", configs["prior_text_encoder"], {"hidden_size": space})
    yield from _of_prior(folder, configs)


def _of_prior(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    prior, reads = configs["prior"], configs["prior_text_encoder"]
    text = prior["embedding_proj_dim"] or prior["embedding_dim"]
    wanted = {
        "projection_dim": text,
        "hidden_size": prior["embedding_dim"],
        "max_position_embeddings": prior["num_embeddings"],
    }
    yield from _unlike(folder, "prior_text_encoder", reads, wanted)


def _unlike(folder: ModelFolder, part: str, config: Config, wanted: Mapping[str, object]) -> Iterator[str]:
    """A sentence for each value of a part's configuration that another part needs to be another."""
    for key, value in wanted.items():
        if config[key] != value:
            yield f"{folder.config_file(part)} has {key}={config[key]}, the other parts need {value}; {ONE_MODEL}."
