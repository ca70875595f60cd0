"""One table of schedulers: every name leads to one, and a picture says the one that drew it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.contract.messages.schedulers import CLASS_NAMES, SCHEDULERS, canonical, nearest, sampler_words

API = Path(__file__).parents[2] / "docs" / "api.md"

ELSEWHERE = {
    # AUTOMATIC1111's sampler list, as far as diffusers has the method.
    "Euler a": "euler_a", "Euler": "euler", "LMS": "lms", "Heun": "heun", "DPM2": "kdpm2", "DPM2 a": "kdpm2_a",
    "DPM++ 2M": "dpmpp_2m", "DPM++ 2M Karras": "dpmpp_2m_karras", "DPM++ 2M SDE": "dpmpp_sde",
    "DPM++ 2M SDE Karras": "dpmpp_sde_karras", "DDIM": "ddim", "PLMS": "pndm", "UniPC": "unipc",
    "LMS Karras": "lms_karras", "LCM": "lcm",
    "k_euler_a": "euler_a", "k_dpm_2": "kdpm2", "k_dpmpp_2m": "dpmpp_2m",
    # Stable Diffusion and SDXL on Replicate.
    "K_EULER": "euler", "K_EULER_ANCESTRAL": "euler_a", "DPMSolverMultistep": "dpmpp_2m", "PNDM": "pndm", "KLMS": "lms",
    "HeunDiscrete": "heun", "KarrasDPM": "dpmpp_2m_karras",
    # ComfyUI and InvokeAI.
    "euler_ancestral": "euler_a", "dpm_2_ancestral": "kdpm2_a", "uni_pc": "unipc", "dpmpp_2m_sde": "dpmpp_sde",
    "dpmpp_2m_k": "dpmpp_2m_karras",
}  # fmt: skip


@pytest.mark.parametrize(("written", "name"), ELSEWHERE.items())
def test_names_of_other_programs_are_understood_in_any_case(written: str, name: str) -> None:
    assert {canonical(word) for word in (written, written.lower(), written.upper(), f" {written} ")} == {name}


def test_own_names_and_diffusers_classes_mean_themselves() -> None:
    for name in (*SCHEDULERS, *CLASS_NAMES):
        assert canonical(name) == canonical(name.upper()) == name


@pytest.mark.parametrize("other", ["DPM++ SDE", "DPM++ SDE Karras", "DPM++ 2S a", "DPM adaptive", "", "euler_b"])
def test_another_method_is_not_taken_for_one_of_these(other: str) -> None:
    assert canonical(other) is None


def test_no_word_means_two_things() -> None:
    words = Counter(word.casefold() for one in SCHEDULERS.values() for word in set(one.other_names))
    assert [word for word, count in words.items() if count > 1] == ["ddim"], "with eta 1 it is DDIM as well"
    own = {name.casefold() for name in (*SCHEDULERS, *CLASS_NAMES)}
    assert {word for word in words if word in own and canonical(word) not in _called(word)} == set()


def _called(word: str) -> set[str]:
    return {name for name, one in SCHEDULERS.items() if word in {other.casefold() for other in one.other_names}}


def test_the_nearest_names() -> None:
    assert nearest("dpm++ sde", SCHEDULERS)[0] == "dpmpp_sde"
    assert nearest("euler-a", ("ddim", "euler_a", "euler"))[0] == "euler_a"
    assert nearest("eulerdiscretescheduller", CLASS_NAMES)[0] == "EulerDiscreteScheduler"
    assert nearest("magic", SCHEDULERS) == ()


def test_each_says_the_method_that_draws() -> None:
    """Two names share the text only if they differ in what the text says besides."""
    said = [sampler_words(name, {}) for name in SCHEDULERS]
    assert len(set(said)) == len(SCHEDULERS)
    assert not [sampler for sampler, _, _ in said if sampler in SCHEDULERS], "an own name is nobody else's word"
    assert sampler_words("dpmpp_sde", {})[0] == "DPM++ 2M SDE"


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        ({"algorithm_type": "dpmsolver++", "solver_order": 2}, ("DPM++ 2M", None, 0.0)),
        ({"algorithm_type": "dpmsolver++", "solver_order": 3}, ("DPM++ 3M", None, 0.0)),
        ({"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, ("DPM++ 2M SDE", "Karras", 0.0)),
        ({"algorithm_type": "dpmsolver++", "use_beta_sigmas": True}, ("DPM++ 2M", "Beta", 0.0)),
        ({"algorithm_type": "dpmsolver"}, ("DPMSolverMultistepScheduler", None, 0.0)),
    ],
)
def test_a_class_name_is_called_by_what_the_model_makes_of_it(solver: dict[str, Any], words: tuple[Any, ...]) -> None:
    name = "DPMSolverMultistepScheduler"
    assert sampler_words(name, {"class": name, **solver}) == words


def test_the_spacing_that_a_model_brings_along_is_said() -> None:
    solver = {"class": "EulerDiscreteScheduler", "use_karras_sigmas": False, "use_exponential_sigmas": True}
    assert sampler_words("euler", solver) == ("Euler", "Exponential", 0.0)


def test_the_documented_table_is_this_one() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in API.read_text().splitlines()
        if line.startswith("| `")
    ]
    documented = {row[0].strip("`"): row[1:] for row in rows if row[0].strip("`") in SCHEDULERS and len(row) == 4}
    assert documented.keys() == SCHEDULERS.keys()
    for name, (cls, sampler, others) in documented.items():
        one = SCHEDULERS[name]
        assert cls == f"`{one.cls}`"
        assert sampler == f"{one.sampler} {one.schedule or ''}".strip()
        assert others == ", ".join(f"`{word}`" for word in (one.replicate, *one.aliases) if word)
