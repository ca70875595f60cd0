"""Samplers and schedules: two words of AUTOMATIC1111's for what is one scheduler here.

Knows names. Refuses to know what a scheduler computes.
"""

from __future__ import annotations

from typing import Any, Final

from app.contract.messages.card import ModelCard
from app.contract.messages.params import ParamError, ParamsRejected
from app.contract.messages.schedulers import SCHEDULERS, canonical, sampler_words

AUTOMATIC: Final = "automatic"
UNIFORM: Final = "uniform"
"""The spacing of steps that a sampler has without any schedule."""

AUTOMATICALLY: Final = {"dpmpp_2m": "dpmpp_2m_karras"}
"""What "automatic" means where it is not the plain one (modules/sd_samplers_kdiffusion.py, `scheduler` of a sampler's
options). Theirs has Karras for DPM2 and exponential sigmas for DPM++ 2M SDE as well, which are not offered here."""


def scheduler_of(sampler: str | None, schedule: str | None, eta: float | None, card: ModelCard) -> str | None:
    """Our name for both; None for the model's own. What is unknown comes back as it is, for others to refuse.

    `eta` is read with DDIM only, which is another method with 1. Raises ParamsRejected for a schedule that does not go
    with the sampler here.
    """
    if not sampler and _is_automatic(schedule):
        return None
    named = canonical(sampler or card.scheduler) or sampler or card.scheduler
    if named not in SCHEDULERS:
        if canonical(named) and not _is_automatic(schedule):
            raise _refused("goes with one of the samplers that are listed")
        return named
    if named == "ddim" and eta == 1:
        named = "ddim_eta1"
    return _with_schedule(named, schedule, card)


def sampler_items(card: ModelCard) -> list[dict[str, Any]]:
    """The samplers of a model, as GET /sdapi/v1/samplers lists them."""
    items: dict[str, dict[str, Any]] = {}
    for name in card.schedulers:
        one = SCHEDULERS.get(name)
        if one is None or one.schedule:
            continue
        item = items.setdefault(one.sampler, {"name": one.sampler, "aliases": [], "options": {}})
        item["aliases"] += [name, *one.aliases]
        if AUTOMATICALLY.get(name) in card.schedulers:
            item["options"] = {"scheduler": "karras"}
    return list(items.values())


def schedule_items(card: ModelCard) -> list[dict[str, Any]]:
    """The schedules that go with any of them, as GET /sdapi/v1/schedulers lists them."""
    there = [SCHEDULERS[name].schedule for name in card.schedulers if name in SCHEDULERS]
    labels = ["Automatic", "Uniform", *dict.fromkeys(label for label in there if label)]
    return [
        {"name": label.lower(), "label": label, "aliases": None, "default_rho": -1, "need_inner_model": False}
        for label in labels
    ]


def words_of(scheduler: str) -> tuple[str, str | None]:
    """Sampler and schedule of one of our names."""
    sampler, schedule, _ = sampler_words(scheduler, {})
    return sampler, schedule


def _with_schedule(named: str, schedule: str | None, card: ModelCard) -> str:
    one = SCHEDULERS[named]
    if _is_automatic(schedule):
        automatic = AUTOMATICALLY.get(named, named)
        return automatic if automatic in card.schedulers else named
    alike = {
        (each.schedule or UNIFORM).lower(): name
        for name, each in SCHEDULERS.items()
        if (each.sampler, each.eta) == (one.sampler, one.eta)
    }
    found = alike.get(_folded(schedule))
    if found is None:
        there = [AUTOMATIC, *(word for word, name in alike.items() if name in card.schedulers)]
        detail = f"does not go with this sampler here; {' or '.join(there)} does"
        raise _refused(detail)
    return found


def _refused(detail: str) -> ParamsRejected:
    return ParamsRejected([ParamError("/scheduler", "unknown", detail)])


def _is_automatic(schedule: str | None) -> bool:
    return _folded(schedule) in ("", AUTOMATIC)


def _folded(schedule: str | None) -> str:
    return (schedule or "").strip().casefold().replace("_", " ")
