"""prompt_syntax "a1111": windows, weights and the restored mean, held against the published rules as they are written
here once more, and the pictures against the stock pipeline with the embeddings that those rules give."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
import torch

from tests.engine.driving import distance, engine_of, final_latents, prepared, run, wish
from tests.engine.test_equation import IN_COMPANY
from tests.engine.test_prompts import warnings_of
from worker.engine.request import Request
from worker.families.latent_diffusion import CONTEXT
from worker.families.text import equally_long, weighted
from worker.models.bundle import Bundle, stock_pipeline
from worker.models.quiet import quiet_libraries

SIZE = 30
"""Tokens of text in a window of the tiny models; 75 in CLIP."""

BUNDLES = ("epsilon_bundle", "velocity_bundle", "xl_bundle")


def reds(count: int) -> str:
    return " ".join(["red"] * count)


PROMPTS = (
    "",
    "a red circle",
    "a (red:1.4) [circle], ((blue:.5) star) BREAK a \\(yellow\\) cat",
    "BREAK a (cat)",
    "a cat BREAK BREAK a (dog:0)",
    "a (cat:1.2) BREAK a (dog) BREAK",
    f"{reds(25)}, (a blue star that is cut:1.3)",
    f"{reds(29)}, a comma at the end",
    f"{reds(20)}, {reds(9)}, (a comma:1.2) behind the end, and one before",
    f"{reds(9)}, {reds(25)} a comma that is too far away, a (cat:-1)",
    f"{reds(10)}, {reds(25)} a comma that is just near enough",
    f"({' '.join(['a cat,'] * 14)}:1.1)",
)
LENGTHS = ([0], [3], [6, 5], [0, 2], [2, 0, 2], [2, 2], [26, 9], [30, 7], [30, 16], [30, 21], [11, 30, 10], [30, 12])
"""Tokens of text in the windows of each."""


@pytest.fixture(scope="module", params=BUNDLES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """With encoders whose states have a mean, as training leaves them; of random weights it is rounding."""
    plain: Bundle = request.getfixturevalue(request.param)
    encoders = {name: getattr(plain, name) for name in ("text_encoder", "text_encoder_2") if getattr(plain, name)}
    return dataclasses.replace(plain, **{name: _trained(encoder) for name, encoder in encoders.items()})


def _trained(encoder: Any) -> Any:
    trained = copy.deepcopy(encoder)
    network = getattr(trained, "text_model", trained)
    network.embeddings.position_embedding.weight += 0.3
    network.final_layer_norm.bias += 0.3
    return trained


def characters(prompt: str, weight: float = 1.0) -> Iterator[tuple[str, float]]:
    """Each letter with its weight, for brackets that are all closed: what is between two is read by itself."""
    at = 0
    while at < len(prompt):
        letter = prompt[at]
        if letter == "\\":
            yield prompt[at + 1], weight
            at += 2
        elif letter in "([":
            end = closing(prompt, at)
            inside, own = prompt[at + 1 : end], 1.1 if letter == "(" else 1 / 1.1
            if letter == "(" and ":" in inside.rpartition(")")[2]:
                inside, _, number = inside.rpartition(":")
                own = float(number)
            yield from characters(inside, own * weight)
            at = end + 1
        else:
            yield letter, weight
            at += 1


def closing(prompt: str, at: int) -> int:
    depth = 0
    for end in range(at, len(prompt)):
        if prompt[end - 1 : end] != "\\":
            depth += (prompt[end] in "([") - (prompt[end] in ")]")
        if not depth:
            return end
    raise AssertionError("not closed")


def chunks(bundle: Bundle, prompt: str) -> list[list[tuple[int, float]]]:
    """Token by token. A full chunk gives the words behind its last comma, if they are fewer than 20, to the next."""
    [comma] = bundle.tokenizer(",", add_special_tokens=False).input_ids
    found: list[list[tuple[int, float]]] = []
    texts = prompt.split("BREAK")
    for number, text in enumerate(texts):
        chunk: list[tuple[int, float]] = []
        for weight, letters_of_it in groupby(characters(text.strip()), key=lambda each: each[1]):
            letters = "".join(letter for letter, _ in letters_of_it)
            for token in bundle.tokenizer(letters, add_special_tokens=False).input_ids:
                if len(chunk) == SIZE:
                    tail = [] if token == comma else behind_comma(chunk, comma)
                    found.append(chunk[: SIZE - len(tail)])
                    chunk = tail
                chunk.append((token, weight))
        if chunk or number < len(texts) - 1 or not found:
            found.append(chunk)
    return found


def behind_comma(chunk: list[tuple[int, float]], comma: int) -> list[tuple[int, float]]:
    tokens = [token for token, _ in chunk]
    if comma not in tokens[-20:]:
        return []
    last = max(at for at, token in enumerate(tokens) if token == comma)
    return chunk[last + 1 :]


def published(bundle: Bundle, prompt: str, clip_skip: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Context [tokens, width] and the first chunk as one vector: each chunk encoded, weighed and restored by itself."""
    pairs = [(bundle.tokenizer, bundle.text_encoder, clip_skip)]
    if bundle.text_encoder_2 is not None:
        pairs = [(bundle.tokenizer, bundle.text_encoder, clip_skip + 1)]
        pairs += [(bundle.tokenizer_2, bundle.text_encoder_2, clip_skip + 1)]
    contexts, pooled = [], None
    for chunk in chunks(bundle, prompt):
        parts = []
        for tokenizer, encoder, skipped in pairs:
            z, vector = encoded(tokenizer, encoder, chunk, skipped, norm=len(pairs) == 1)
            parts.append(z)
        pooled = vector if pooled is None else pooled
        contexts.append(torch.cat(parts, dim=-1))
    return torch.cat(contexts), pooled


def encoded(tokenizer: Any, encoder: Any, chunk: list[tuple[int, float]], skipped: int, *, norm: bool) -> Any:
    ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
    multipliers = [1.0, *(weight for _, weight in chunk), 1.0]
    filling = SIZE + 2 - len(ids)
    answer = encoder(torch.tensor([ids + [tokenizer.pad_token_id] * filling]), output_hidden_states=True)
    z = answer.hidden_states[-1 - skipped] if skipped else answer[0]
    if skipped and norm:
        z = getattr(encoder, "text_model", encoder).final_layer_norm(z)
    mean = z.mean()
    z = z * torch.tensor(multipliers + [1.0] * filling)[None, :, None]
    return (z * (mean / z.mean()))[0], getattr(answer, "text_embeds", [None])[0]


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_prompts_are_read_by_the_published_rules(bundle: Bundle, clip_skip: int | None) -> None:
    """All at once, so that none is weighed or restored with its neighbours."""
    requests = [
        wish(str(k), prompt=prompt, prompt_syntax="a1111", clip_skip=clip_skip, guidance_scale=1.0)
        for k, prompt in enumerate(PROMPTS)
    ]
    for prompt, answer in zip(PROMPTS, prepared(bundle, *requests), strict=True):
        rows = answer.passes[0].rows.conditional
        context, pooled = published(bundle, prompt, clip_skip or 0)
        torch.testing.assert_close(rows[CONTEXT], context, rtol=1e-4, atol=1e-5, msg=prompt)
        if pooled is not None:
            torch.testing.assert_close(rows["text_embeds"], pooled, msg=prompt)
        assert answer.warnings == []


def test_the_rules_of_this_test_know_commas_and_breaks(epsilon_bundle: Bundle) -> None:
    """The test itself."""
    for prompt, lengths in zip(PROMPTS, LENGTHS, strict=True):
        assert [len(chunk) for chunk in chunks(epsilon_bundle, prompt)] == lengths, prompt
    assert len(chunks(epsilon_bundle, PROMPTS[5])) == 2


def test_without_weights_it_is_the_plain_reading_to_the_bit(bundle: Bundle) -> None:
    prompt, negative = "a red circle", "a dog"
    plain, a1111 = prepared(
        bundle,
        wish("a", prompt=prompt, negative_prompt=negative),
        wish("b", prompt=prompt, negative_prompt=negative, prompt_syntax="a1111"),
    )
    for name, tensor in plain.passes[0].rows.conditional.items():
        assert torch.equal(tensor, a1111.passes[0].rows.conditional[name])
        assert torch.equal(plain.passes[0].rows.unconditional[name], a1111.passes[0].rows.unconditional[name])


def test_brackets_of_a_plain_prompt_stay_letters_and_are_remembered_apart(bundle: Bundle) -> None:
    engine_family = prepared(
        bundle,
        wish("a", prompt="a (red) circle", guidance_scale=1.0),
        wish("b", prompt="a (red) circle", guidance_scale=1.0, prompt_syntax="a1111"),
    )
    plain, weighed = (answer.passes[0].rows.conditional[CONTEXT] for answer in engine_family)
    assert distance(plain, weighed) > 1e-2
    ids = bundle.tokenizer("a (red) circle", add_special_tokens=False).input_ids
    assert len(ids) > 3, "brackets are tokens"


def stock_latents(bundle: Bundle, asked: Request) -> torch.Tensor:
    """The stock pipeline, given what the published rules make of the prompts."""
    if asked.prompt_syntax == "a1111":
        (context, pooled), (other, other_pooled) = (
            published(bundle, prompt or "") for prompt in (asked.prompt, asked.negative_prompt)
        )
        context, other = equally_long(context, other)
        embeds = {"prompt_embeds": context[None], "negative_prompt_embeds": other[None]}
        if pooled is not None and other_pooled is not None:
            embeds |= {"pooled_prompt_embeds": pooled[None], "negative_pooled_prompt_embeds": other_pooled[None]}
    else:
        embeds = {"prompt": asked.prompt, "negative_prompt": asked.negative_prompt}
    with quiet_libraries():
        latents: torch.Tensor = stock_pipeline(bundle, asked.scheduler)(
            **embeds, width=asked.width, height=asked.height, num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale, generator=torch.Generator().manual_seed(asked.seed),
            output_type="latent",
        ).images[0]  # fmt: skip
        return latents


def test_in_company_it_is_the_stock_pipelines_with_the_published_embeddings(bundle: Bundle) -> None:
    """Long and short, weighted and plain prompts in one batch, whose neighbours are what they are alone."""
    requests = [
        wish("a", prompt=PROMPTS[2], negative_prompt="(blurry:1.2)", prompt_syntax="a1111"),
        wish("b", prompt="a (red) circle", negative_prompt="a dog", seed=8, num_inference_steps=4),
        wish("c", prompt="a ((red)) circle", negative_prompt="a [dog]", prompt_syntax="a1111", seed=9),
        wish("d", prompt=PROMPTS[6], negative_prompt="a dog", prompt_syntax="a1111", scheduler="euler_a", seed=10),
    ]
    together = final_latents(bundle, *requests)
    for asked in requests:
        expected = stock_latents(bundle, asked)
        assert min(distance(latents, expected) for latents in together) <= IN_COMPANY, asked.id


def test_what_is_beyond_the_last_window_is_said(epsilon_bundle: Bundle) -> None:
    prompt = "a red circle BREAK a blue star BREAK a (yellow:1.2) cat BREAK a green fish"
    finished = run(engine_of(epsilon_bundle), wish(prompt=prompt, prompt_syntax="a1111", num_inference_steps=1))["a"]
    said = "Only the first 9 tokens of the prompt were read; not read: 'a green fish'."
    assert warnings_of(finished) == [said]


def test_what_the_syntax_has_and_nobody_here_draws_is_said(epsilon_bundle: Bundle) -> None:
    asked = wish(
        prompt="a [cat:dog:0.5] AND a [red|blue] star", negative_prompt="<lora:ink:1> \\[a|b\\]",
        prompt_syntax="a1111", num_inference_steps=1,
    )  # fmt: skip
    assert warnings_of(run(engine_of(epsilon_bundle), asked)["a"]) == [
        "Not supported, and read as plain letters in the prompt: prompt editing such as […:…:0.5], alternation such as"
        " […|…], AND between prompts.",
        "Not supported, and read as plain letters in the negative prompt: <lora:…>.",
    ]


def test_a_mean_of_nothing_is_not_restored() -> None:
    """Behind an untrained norm it is rounding alone, and its quotient any number."""
    states = torch.tensor([[[1.0, -1.0], [2.0, -2.0]], [[1.0, 2.0], [3.0, 4.0]]])
    answer = weighted(states, torch.tensor([[1.0, 3.0], [1.0, 3.0]]))
    assert torch.equal(answer[0], torch.tensor([[1.0, -1.0], [6.0, -6.0]]))
    assert torch.allclose(answer[1], torch.tensor([[1.0, 2.0], [9.0, 12.0]]) * (10 / 24))
