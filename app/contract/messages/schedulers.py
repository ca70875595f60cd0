"""The table of schedulers: what each is called, here and elsewhere, which class of diffusers it is, with which options.

Whoever takes a name from a request, builds a scheduler, or writes its name into a picture reads this table. Knows names
and options only: no torch, no diffusers, and not which of them work with a model; a model's card says that.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """`cls` is diffusers' class; `options` go over the model's own configuration, `eta` goes to its step.

    `sampler` and `schedule` are AUTOMATIC1111's words ("Sampler", "Schedule type") or, where it has no such sampler,
    the method's usual name. `replicate` is the name in Stable Diffusion's schema on Replicate, and `aliases` are what
    k-diffusion, ComfyUI and InvokeAI call it.
    """

    cls: str
    options: Mapping[str, Any] = field(default_factory=dict)
    eta: float = 0.0
    sampler: str
    schedule: str | None = None
    replicate: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def other_names(self) -> tuple[str, ...]:
        """What it is called elsewhere; AUTOMATIC1111 before 1.9 wrote sampler and schedule as one."""
        in_one = f"{self.sampler} {self.schedule}" if self.schedule else self.sampler
        return tuple(name for name in (in_one, self.replicate, *self.aliases) if name)

    def draws_like(self, solver: Mapping[str, Any]) -> bool:
        """Is that configuration this method, whatever its spacing of sigmas?"""
        said = {**self.options, "eta": self.eta}
        return all(solver.get(name, value) == value for name, value in said.items() if name not in SCHEDULES)


SCHEDULES = {
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "Beta",
}
"""diffusers' options for the spacing of sigmas, in AUTOMATIC1111's words."""

PLAIN: dict[str, Any] = {"use_karras_sigmas": False}
KARRAS: dict[str, Any] = {"use_karras_sigmas": True}
DPM: dict[str, Any] = {"algorithm_type": "dpmsolver++"}
DPM_SDE: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++"}

SCHEDULERS: Mapping[str, Scheduler] = {
    "ddim": Scheduler(cls="DDIMScheduler", sampler="DDIM", replicate="DDIM"),
    # eta = 1, where DDIM becomes as stochastic as DDPM (Song et al. 2021).
    "ddim_eta1": Scheduler(cls="DDIMScheduler", eta=1.0, sampler="DDIM", aliases=("DDIM eta 1",)),
    # The model's own variance_type may be one that only its own class understands.
    "ddpm": Scheduler(cls="DDPMScheduler", options={"variance_type": "fixed_small"}, sampler="DDPM"),
    # Without the Runge-Kutta warm-up, as Stable Diffusion's own configuration has it.
    "pndm": Scheduler(cls="PNDMScheduler", options={"skip_prk_steps": True}, sampler="PLMS", replicate="PNDM"),
    "lms": Scheduler(cls="LMSDiscreteScheduler", options=PLAIN, sampler="LMS", replicate="KLMS", aliases=("K_LMS",)),
    "lms_karras": Scheduler(
        cls="LMSDiscreteScheduler", options=KARRAS, sampler="LMS", schedule="Karras", aliases=("k_lms_ka", "lms_k")
    ),
    "euler": Scheduler(cls="EulerDiscreteScheduler", options=PLAIN, sampler="Euler", replicate="K_EULER"),
    "euler_karras": Scheduler(
        cls="EulerDiscreteScheduler", options=KARRAS, sampler="Euler", schedule="Karras", aliases=("euler_k",)
    ),
    "euler_a": Scheduler(
        cls="EulerAncestralDiscreteScheduler",
        sampler="Euler a",
        replicate="K_EULER_ANCESTRAL",
        aliases=("k_euler_a", "euler_ancestral"),
    ),
    "heun": Scheduler(
        cls="HeunDiscreteScheduler", options=PLAIN, sampler="Heun", replicate="HeunDiscrete", aliases=("k_heun",)
    ),
    "kdpm2": Scheduler(
        cls="KDPM2DiscreteScheduler", options=PLAIN, sampler="DPM2", aliases=("k_dpm_2", "dpm_2", "kdpm_2")
    ),
    "kdpm2_a": Scheduler(
        cls="KDPM2AncestralDiscreteScheduler",
        options=PLAIN,
        sampler="DPM2 a",
        aliases=("k_dpm_2_a", "k_dpm_2_ancestral", "dpm_2_ancestral", "kdpm_2_a", "dpm2_a"),
    ),
    "dpmpp_2m": Scheduler(
        cls="DPMSolverMultistepScheduler",
        options=DPM | PLAIN | {"solver_order": 2},
        sampler="DPM++ 2M",
        replicate="DPMSolverMultistep",
        aliases=("k_dpmpp_2m",),
    ),
    "dpmpp_2m_karras": Scheduler(
        cls="DPMSolverMultistepScheduler",
        options=DPM | KARRAS | {"solver_order": 2},
        sampler="DPM++ 2M",
        schedule="Karras",
        replicate="KarrasDPM",
        aliases=("k_dpmpp_2m_ka", "dpmpp_2m_k"),
    ),
    "dpmpp_3m": Scheduler(
        cls="DPMSolverMultistepScheduler", options=DPM | PLAIN | {"solver_order": 3}, sampler="DPM++ 3M"
    ),
    # The multistep SDE solver, elsewhere called dpmpp_2m_sde. "DPM++ SDE" is no name of it: that is the single-step one
    # with Brownian noise, which needs torchsde and is not offered.
    "dpmpp_sde": Scheduler(
        cls="DPMSolverMultistepScheduler",
        options=DPM_SDE | PLAIN | {"solver_order": 2},
        sampler="DPM++ 2M SDE",
        aliases=("k_dpmpp_2m_sde", "dpmpp_2m_sde"),
    ),
    "dpmpp_sde_karras": Scheduler(
        cls="DPMSolverMultistepScheduler",
        options=DPM_SDE | KARRAS | {"solver_order": 2},
        sampler="DPM++ 2M SDE",
        schedule="Karras",
        aliases=("k_dpmpp_2m_sde_ka", "dpmpp_2m_sde_karras", "dpmpp_2m_sde_k"),
    ),
    # Not "DPM++ 2S a", which adds noise.
    "dpmpp_2s": Scheduler(
        cls="DPMSolverSinglestepScheduler",
        options=DPM | PLAIN | {"solver_order": 2, "lower_order_final": True},
        sampler="DPM++ 2S",
    ),
    "deis": Scheduler(cls="DEISMultistepScheduler", sampler="DEIS"),
    "unipc": Scheduler(cls="UniPCMultistepScheduler", sampler="UniPC", aliases=("uni_pc",)),
    "sa_solver": Scheduler(cls="SASolverScheduler", options={"algorithm_type": "data_prediction"}, sampler="SA Solver"),
    "lcm": Scheduler(cls="LCMScheduler", sampler="LCM"),
    "tcd": Scheduler(cls="TCDScheduler", sampler="TCD"),
}

CLASS_NAMES = tuple(dict.fromkeys(scheduler.cls for scheduler in SCHEDULERS.values()))
"""diffusers' names, which are names here too: they change nothing in the model's own configuration."""

OWN_CLASS_NAMES = ("UnCLIPScheduler",)
"""The same of schedulers that only models are stepped with that were made with them."""


def _written() -> Iterator[tuple[str, str]]:
    """Every way to write a scheduler, and which is meant. Where one word has two meanings, the first comes first."""
    yield from ((name, name) for name in (*SCHEDULERS, *CLASS_NAMES, *OWN_CLASS_NAMES))
    yield from ((other, name) for name, scheduler in SCHEDULERS.items() for other in scheduler.other_names)


_MEANT: dict[str, str] = {}
for _name, _meaning in _written():
    _MEANT.setdefault(_name.casefold(), _meaning)


def canonical(name: str) -> str | None:
    """The table's name for a scheduler in anybody's words, in any case; None for one that nobody here knows."""
    return _MEANT.get(name.strip().casefold())


def nearest(name: str, among: Iterable[str]) -> tuple[str, ...]:
    """Of the names `among`, the likeliest that was meant by a mistyped one, best first; also by what they are called
    elsewhere. Empty if it looks like none."""
    known = set(among)
    written = {other.casefold(): meant for other, meant in _written() if meant in known} | {
        other.casefold(): other for other in known
    }
    close = difflib.get_close_matches(name.strip().casefold(), written, n=3, cutoff=0.6)
    return tuple(dict.fromkeys(written[other] for other in close))


def sampler_words(name: str, solver: Mapping[str, Any]) -> tuple[str, str | None, float]:
    """(sampler, schedule, eta) as AUTOMATIC1111 calls what drew a picture.

    `solver` is the configuration that drew it (class, options, eta), as a picture's record has it: a class name takes
    them from the model. A method without a name is called by its class.
    """
    schedule = next((word for option, word in SCHEDULES.items() if solver.get(option)), None)
    one = SCHEDULERS.get(name)
    if one is not None:
        return one.sampler, one.schedule or schedule, one.eta
    cls = solver.get("class", name)
    alike = (one for one in SCHEDULERS.values() if one.cls == cls and one.draws_like(solver))
    found = next(alike, None)
    return (found.sampler, schedule, found.eta) if found else (str(cls), schedule, 0.0)
