"""The pipelines of diffusers whose models are served: a row for each, as pipeline.py has it. Their families are in
worker/families.

Knows names only. Knows no files and imports no torch.
"""

from __future__ import annotations

from dataclasses import replace

from worker.models.pipeline import EDITS, FEWER, Behind, Pipeline

SIZES = ("original_size", "crops_coords_top_left", "target_size")
"""What SDXL's UNet reads beside the prompt."""

TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast")
SAFETY_CHECKER = "safety_checker"
CHECKER = {
    SAFETY_CHECKER: ("StableDiffusionSafetyChecker",),
    "feature_extractor": (
        "CLIPImageProcessor", "CLIPFeatureExtractor", "CLIPImageProcessorFast", "CLIPImageProcessorPil",
    ),
}  # fmt: skip
"""A CLIP that knows what not to show, and how pictures are prepared for it."""

STABLE_DIFFUSION = Pipeline(
    name="StableDiffusionPipeline",
    components={
        "tokenizer": TOKENIZER,
        "text_encoder": ("CLIPTextModel",),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "scheduler": (),
    },
    rewritten={"steps_offset": 1, "clip_sample": False},
    native_side=512,
    checker=CHECKER,
)
"""1.x and 2.x (Rombach et al. 2022)."""

STABLE_DIFFUSION_XL = Pipeline(
    name="StableDiffusionXLPipeline",
    components={
        **STABLE_DIFFUSION.components,
        "tokenizer_2": TOKENIZER,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
    },
    rewritten={},
    native_side=1024,
    # Section 2.1 of the paper.
    layers_left_out=1,
    takes=("prompt_syntax", *FEWER, *EDITS, *SIZES),
)
"""Two text encoders, and a UNet that also reads the prompt as one vector and the sizes (Podell et al. 2023)."""

LATENT_CONSISTENCY = Pipeline(
    name="LatentConsistencyModelPipeline",
    components={**STABLE_DIFFUSION.components, "scheduler": ("LCMScheduler",)},
    rewritten={},
    native_side=512,
    unet_inputs=("time_cond_proj_dim",),
    classifier_free_guidance=False,
    takes=("prompt_syntax", *EDITS),
    # diffusers' defaults for this pipeline.
    few_steps=(4, 8.5),
    checker=CHECKER,
)
"""Stable Diffusion 1.x distilled to a few steps together with its guidance (Luo et al. 2023)."""

INPAINTING = replace(
    STABLE_DIFFUSION,
    name="StableDiffusionInpaintPipeline",
    rewritten={"steps_offset": 1, "skip_prk_steps": True},
    repaints=True,
)
"""1.x and 2.x trained on for inpainting."""

INPAINTING_XL = replace(STABLE_DIFFUSION_XL, name="StableDiffusionXLInpaintPipeline", repaints=True)

IMAGE_ENCODER = {
    "image_encoder": ("CLIPVisionModelWithProjection",),
    "feature_extractor": CHECKER["feature_extractor"],
}
"""A CLIP's view of a picture, as one vector, and how pictures are prepared for it."""

UNCLIPPED = {"clip_sample": False}
"""These pipelines rewrite nothing. But most of their folders have a scheduler that knows no clipping, and one that does
would be made from its configuration with diffusers' default for pictures: latents are not bounded by 1."""

STABLE_UNCLIP_IMAGE = replace(
    STABLE_DIFFUSION,
    name="StableUnCLIPImg2ImgPipeline",
    components={
        **STABLE_DIFFUSION.components,
        **IMAGE_ENCODER,
        "image_normalizer": ("StableUnCLIPImageNormalizer",),
        "image_noising_scheduler": ("DDPMScheduler", "DDIMScheduler"),
    },
    rewritten=UNCLIPPED,
    native_side=768,
    takes=("prompt_syntax", *FEWER, "image_embedding", "noise_level", "start"),
    reads_embeddings=True,
    checker={},
)
"""Stable Diffusion 2.1 trained on to draw from the CLIP embedding of a picture, beside a text: a decoder in the words
of Ramesh et al. 2022."""

STABLE_UNCLIP = replace(
    STABLE_UNCLIP_IMAGE,
    name="StableUnCLIPPipeline",
    components={
        **{name: each for name, each in STABLE_UNCLIP_IMAGE.components.items() if name not in IMAGE_ENCODER},
        "prior_tokenizer": TOKENIZER,
        "prior_text_encoder": ("CLIPTextModelWithProjection",),
        "prior": ("PriorTransformer",),
        # Its pipeline steps UnCLIPScheduler wrongly: it never says to which timestep.
        "prior_scheduler": ("DDPMScheduler", "DDIMScheduler"),
    },
    optional=IMAGE_ENCODER,
    takes=("prompt_syntax", *FEWER, "prior", "image_embedding", "noise_level", "start"),
    # diffusers' defaults for this pipeline.
    prior=(25, 4.0),
)
"""The same behind a prior, which makes the embedding from a text."""

IMAGE_VARIATION = replace(
    STABLE_DIFFUSION,
    name="StableDiffusionImageVariationPipeline",
    components={
        **{
            name: each
            for name, each in STABLE_DIFFUSION.components.items()
            if name not in ("tokenizer", "text_encoder")
        },
        **IMAGE_ENCODER,
    },
    rewritten=UNCLIPPED,
    takes=(*FEWER, "image_embedding", "start"),
    reads_text=False,
    checker={SAFETY_CHECKER: CHECKER[SAFETY_CHECKER]},
)
"""Stable Diffusion 1.x trained on to draw from the CLIP embedding of a picture in the place of a text."""

PRIOR = {
    "prior_tokenizer": TOKENIZER,
    "prior_text_encoder": ("CLIPTextModelWithProjection",),
    "prior": ("PriorTransformer",),
    "prior_scheduler": ("UnCLIPScheduler",),
}
"""As Karlo came with it, and Kandinsky: stepped with its own scheduler alone."""

KANDINSKY = Pipeline(
    name="KandinskyV22CombinedPipeline",
    components={
        **PRIOR,
        **IMAGE_ENCODER,
        "unet": ("UNet2DConditionModel",),
        "vae": ("VQModel",),
        # Its pipeline never calls scale_model_input, which those that work with sigmas need.
        "scheduler": (
            "DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
        ),
    },
    rewritten={},
    native_side=512,
    takes=("guidance_end", "prior", "image_embedding"),
    reads_embeddings=True,
    # diffusers' defaults for this pipeline.
    prior=(25, 4.0),
    usual=(100, 4.0),
    named={
        "prior": "prior_prior",
        "image_encoder": "prior_image_encoder",
        "feature_extractor": "prior_image_processor",
        "vae": "movq",
    },
    sides="squares",
    # 3.4 GiB in half precision, for the pictures that requests name, and once for a black one.
    seldom=("image_encoder",),
)  # fmt: skip
"""Kandinsky 2.2 (Razzhigaev et al. 2023): a prior, and a decoder that reads nothing but an image embedding."""

KANDINSKY_DECODER = replace(
    KANDINSKY,
    name="KandinskyV22Pipeline",
    named={"vae": "movq"},
    behind=Behind(
        "KandinskyV22PriorPipeline",
        {
            "prior_tokenizer": "tokenizer",
            "prior_text_encoder": "text_encoder",
            "prior": "prior",
            "prior_scheduler": "scheduler",
            "image_encoder": "image_encoder",
            "feature_extractor": "image_processor",
        },
    ),
)
"""The same, as it is published: in two folders."""

KARLO = Pipeline(
    name="UnCLIPPipeline",
    components={
        **PRIOR,
        "text_proj": ("UnCLIPTextProjModel",),
        "unet": ("UNet2DConditionModel",),
        "super_res_first": ("UNet2DModel",),
        "super_res_last": ("UNet2DModel",),
        "scheduler": ("UnCLIPScheduler",),
        "super_res_scheduler": ("UnCLIPScheduler",),
    },
    rewritten={},
    native_side=256,
    takes=("prior",),
    reads_embeddings=True,
    # diffusers' defaults for this pipeline.
    prior=(25, 4.0),
    usual=(25, 8.0),
    named={
        "prior_tokenizer": "tokenizer",
        "prior_text_encoder": "text_encoder",
        "unet": "decoder",
        "scheduler": "decoder_scheduler",
    },
    sides="fixed",
)
"""Karlo (Lee et al. 2022), the nearest to Ramesh et al. 2022 that there is: prior, decoder in pixels, super-resolution.
"""

PIPELINES = {
    pipeline.name: pipeline
    for pipeline in (
        STABLE_DIFFUSION,
        STABLE_DIFFUSION_XL,
        LATENT_CONSISTENCY,
        INPAINTING,
        INPAINTING_XL,
        STABLE_UNCLIP,
        STABLE_UNCLIP_IMAGE,
        IMAGE_VARIATION,
        KANDINSKY,
        KANDINSKY_DECODER,
        KARLO,
    )
}


def is_of_transformers(component: str) -> bool:
    """Is the part, one with weights, saved and loaded in transformers' way? The others are in diffusers'."""
    return "encoder" in component or component == SAFETY_CHECKER
