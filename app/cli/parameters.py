"""Parameters of a job as options of `darkroom generate`, made from their declarations and spelled by one table.

What decides the pixels, and is one plain value, is an option even if the table does not know it. Refuses to know how a
request is sent.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import typer

from app.cli import completing
from app.contract.messages.spec import PARAMETERS, PLAIN, JobSpec, PictureSpec


@dataclass(frozen=True, slots=True)
class Spelling:
    """`least` and `default` where the command line has others than a request."""

    flags: tuple[str, ...]
    help: str
    complete: Callable[..., list[str]] | None = None
    least: int | None = None
    default: int | None = None


KEEP = "Keep an estimate after every so many model evaluations, for `darkroom trajectory`."
SPELLINGS: Final = {
    "num_inference_steps": Spelling(("--steps",), "num_inference_steps of the API."),
    "guidance_scale": Spelling(("--guidance",), "guidance_scale of the API."),
    "negative_prompt": Spelling(("--negative",), "What the picture should not show."),
    "scheduler": Spelling(("--scheduler",), "One of the model's schedulers.", completing.schedulers),
    "width": Spelling(("--width",), "Pixels."),
    "height": Spelling(("--height",), "Pixels."),
    "num_images": Spelling(("--num-images", "--images", "-n"), "Pictures of each job.", default=1),
    "best_of": Spelling(("--best-of",), "Draw so many, and keep those that fit best."),
    "expect": Spelling(("--expect",), "What the pictures are to fit, in the place of the prompt. Several are allowed."),
    "min_probability": Spelling(("--min-probability",), "Draw again what fits with less, a few times at most."),
    "model": Spelling(("--model",), "One of the served models.", completing.models),
    "output_quality": Spelling(("--quality",), "Of .jpg (else 95) and .webp (else 90) files."),
    "reproducible": Spelling(("--reproducible",), "The same bits in any company."),
    "preview_every": Spelling(("--preview-every",), KEEP, least=1),
    "strength": Spelling(("--strength",), "Of `edit` and `vary`: how much is drawn anew, 0 to 1."),
    "mask_blur": Spelling(("--mask-blur",), "With --mask: pixels by which its edge is softened."),
}
SAID_OTHERWISE: Final = {
    "prompt": "the prompt",
    "seed": "--seed",
    "aspect_ratio": "--aspect-ratio",
    "output_format": "-o",
    "keep_previews": "--preview-every",
    "image": "the picture",
    "mask_image": "--mask",
    "control": "--control",
    "loras": "--lora",
    "trajectory": "--trajectory",
    "cache": "--cache",
    "deadline": "--deadline",
    "priority": "--batch",
}
"""What other words of the command line decide."""

SAME: Final = {name: spelling.flags[0] for name, spelling in SPELLINGS.items()} | {
    name: SAID_OTHERWISE[name] for name in ("mask_image", "loras")
}
"""Options that take what the parameter takes, under a name of their own."""


def spelled() -> dict[str, Spelling]:
    """The parameters that are options, in the order of help."""
    told = SPELLINGS.keys() | SAID_OTHERWISE.keys()
    others = [name for name in PictureSpec.model_fields if name in PLAIN and name not in told]
    return SPELLINGS | {name: _by_itself(name) for name in others}


def spellings() -> dict[str, str]:
    """How the command line spells members of a request."""
    return SAID_OTHERWISE | {name: each.flags[0] for name, each in spelled().items()}


def as_spelled_here(option: str) -> str:
    """The name of an option, also where somebody wrote the API's and diffusers': `num_inference_steps` is `steps`."""
    written = option.replace("_", "-")
    return next((option[2:] for name, option in SAME.items() if name.replace("_", "-") == written), written)


def with_options_of(draw: Callable[..., None], command: Callable[..., None], *, after: str) -> Callable[..., None]:
    """The command, with every option of `draw` and, behind its option `after`, one for each parameter of a request.

    Its `**options` gets them. What `draw` takes besides has no `typer.Option`, and is the command's to say.
    """
    taken: list[inspect.Parameter] = []
    for own in inspect.signature(command, eval_str=True).parameters.values():
        if own.kind is not inspect.Parameter.VAR_KEYWORD:
            taken.append(own.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    for option in inspect.signature(draw, eval_str=True).parameters.values():
        if get_origin(option.annotation) is Annotated:
            taken.append(option)
        if option.name == after:
            taken += [_option(name, spelling) for name, spelling in spelled().items()]
    command.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in taken}
    return command


def _by_itself(name: str) -> Spelling:
    return Spelling((f"--{name.replace('_', '-')}",), f"{PARAMETERS[name].about or name}.")


def _option(name: str, spelling: Spelling) -> inspect.Parameter:
    kind = _kind(JobSpec.model_fields[name].annotation)
    declared = PARAMETERS[name]
    option = typer.Option(
        *spelling.flags,
        help=spelling.help,
        min=declared.least if spelling.least is None else spelling.least,
        max=declared.most,
        autocompletion=spelling.complete,
    )
    default, asked = (False, bool) if kind is bool else (spelling.default, kind | None)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[asked, option])


def _kind(annotation: Any) -> Any:
    """Of `int | None` int. A name out of several is text: the service knows which there are."""
    if get_origin(annotation) is Literal:
        return str
    if get_origin(annotation) is tuple:
        return list[str]
    return next((kind for kind in get_args(annotation) if kind is not NoneType), annotation)
