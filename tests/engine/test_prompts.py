"""From prompts to conditioning: long ones in windows, none cut without a word, each read once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tests.engine.driving import SIDE, distance, engine_of, final_latents, prepared, run, scripted, wish
from tests.engine.test_engine import slug
from worker.engine.events import Finished
from worker.families.latent_diffusion import CONTEXT
from worker.families.text import equally_long
from worker.models.bundle import Bundle, stock_pipeline
from worker.models.quiet import quiet_libraries

WINDOW = 30
"""Tokens of text in one window of the tiny models, whose text encoder reads 32."""

LONG = " ".join(["red"] * WINDOW + ["yellow", "banana"])
LONGER = " ".join(["red"] * WINDOW + ["a", "blue", "cat"] * 20)


def warnings_of(event: object) -> list[str]:
    assert isinstance(event, Finished), event
    return event.warnings


def read(bundle: Bundle, text: str) -> torch.Tensor:
    """One window, [tokens, width], as StableDiffusionPipeline reads it."""
    padded = bundle.tokenizer(text, padding="max_length", max_length=32, truncation=True, return_tensors="pt")
    return bundle.text_encoder(padded.input_ids)[0][0]


@pytest.mark.parametrize("prompt", ["", "a red circle", " ".join(["red"] * WINDOW)])
def test_a_prompt_of_one_window_is_read_as_the_stock_pipeline_reads_it(epsilon_bundle: Bundle, prompt: str) -> None:
    [request] = prepared(epsilon_bundle, wish(prompt=prompt, guidance_scale=1.0))
    rows = request.passes[0].rows
    assert rows.conditional.keys() == {CONTEXT}
    assert torch.equal(rows.conditional[CONTEXT], read(epsilon_bundle, prompt))
    assert (rows.unconditional, rows.is_guided, request.warnings) == ({}, False, [])


def test_a_long_prompt_is_read_window_by_window(epsilon_bundle: Bundle) -> None:
    [request] = prepared(epsilon_bundle, wish(prompt=LONG))
    rows = request.passes[0].rows
    windows = [read(epsilon_bundle, " ".join(["red"] * WINDOW)), read(epsilon_bundle, "yellow banana")]
    torch.testing.assert_close(rows.conditional[CONTEXT], torch.cat(windows))
    assert torch.equal(rows.unconditional[CONTEXT], read(epsilon_bundle, "").repeat(2, 1))
    assert request.warnings == []


def test_a_long_prompt_draws_what_the_stock_pipeline_draws_from_the_same_windows(epsilon_bundle: Bundle) -> None:
    bundle, request = epsilon_bundle, wish(prompt=LONG, negative_prompt="a dog")
    parts = [read(bundle, " ".join(["red"] * WINDOW)), read(bundle, "yellow banana")]
    with quiet_libraries():
        pipeline = stock_pipeline(bundle, "ddim")
        expected = pipeline(
            prompt_embeds=torch.cat(parts)[None], negative_prompt_embeds=read(bundle, "a dog").repeat(2, 1)[None],
            width=SIDE, height=SIDE, num_inference_steps=6, guidance_scale=4.0,
            generator=torch.Generator().manual_seed(7), output_type="latent",
        ).images[0]  # fmt: skip
    [latents] = final_latents(bundle, request)
    assert distance(latents, expected) < 5e-5


def test_repeating_a_context_changes_nothing_for_the_unet(epsilon_bundle: Bundle) -> None:
    context = read(epsilon_bundle, "a red circle")
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def output(context: torch.Tensor) -> torch.Tensor:
        return epsilon_bundle.unet(x, torch.tensor([500.0]), encoder_hidden_states=context[None])[0]

    alone = output(context)
    assert distance(output(context.repeat(3, 1)), alone) < 1e-5
    assert distance(output(torch.cat([context, read(epsilon_bundle, "")])), alone) > 1e-3, "the test can see it"


def test_contexts_of_two_and_three_windows_become_equally_long() -> None:
    a, b = torch.arange(4.0).view(4, 1), torch.arange(6.0).view(6, 1)
    longer_a, longer_b = equally_long(a, b)
    assert longer_a.flatten().tolist() == [0, 1, 2, 3] * 3
    assert longer_b.flatten().tolist() == [0, 1, 2, 3, 4, 5] * 2


def test_long_and_short_prompts_in_one_engine_draw_what_they_draw_alone(epsilon_bundle: Bundle) -> None:
    contexts: list[int] = []

    class Watched:
        config = epsilon_bundle.unet.config

        def __call__(self, *args: Any, encoder_hidden_states: torch.Tensor, **options: Any) -> Any:
            contexts.append(encoder_hidden_states.shape[1])
            return epsilon_bundle.unet(*args, encoder_hidden_states=encoder_hidden_states, **options)

    requests = [wish("long", prompt=LONG), wish("short"), wish("negative", negative_prompt=LONGER, seed=9)]
    together = final_latents(dataclasses.replace(epsilon_bundle, unet=Watched()), *requests)  # type: ignore[arg-type]
    assert set(contexts) == {32, 64, 96}
    alone = [latents for request in requests for latents in final_latents(epsilon_bundle, request)]
    for latents in together:
        assert min(distance(latents, each) for each in alone) < 1e-6


def test_what_is_beyond_the_last_window_is_said(epsilon_bundle: Bundle) -> None:
    most = " ".join(["red"] * 3 * WINDOW)
    finished = run(engine_of(epsilon_bundle), wish(prompt=most + " yellow banana", negative_prompt=most + " fish"))["a"]
    assert warnings_of(finished) == [
        "Only the first 90 tokens of the prompt were read; not read: 'yellow banana'.",
        "Only the first 90 tokens of the negative prompt were read; not read: 'fish'.",
    ]
    assert warnings_of(run(engine_of(epsilon_bundle), wish(prompt=most, num_inference_steps=1))["a"]) == []


def test_commands_of_other_programs_are_said_to_be_letters(epsilon_bundle: Bundle) -> None:
    finished = run(
        engine_of(epsilon_bundle), wish(prompt="a (cat:1.3)", negative_prompt="BREAK", num_inference_steps=1)
    )["a"]
    remedy = 'The parameter prompt_syntax: "a1111" has them read as AUTOMATIC1111 does.'
    assert warnings_of(finished) == [
        f"Read as plain letters in the prompt, without effect: weights such as (…:1.3). {remedy}",
        f"Read as plain letters in the negative prompt, without effect: BREAK. {remedy}",
    ]


def test_an_encoder_that_wants_a_mask_gets_it_for_every_window(epsilon_bundle: Bundle) -> None:
    masks: list[torch.Tensor] = []

    class Masked(CountingEncoder):
        def __call__(self, ids: torch.Tensor, **options: Any) -> Any:
            masks.append(options["attention_mask"])
            return super().__call__(ids, **options)

    encoder = Masked(epsilon_bundle)
    encoder.config = type("Config", (), {**encoder.config.to_dict(), "use_attention_mask": True})
    prepared(dataclasses.replace(epsilon_bundle, text_encoder=encoder), wish(prompt=LONG, guidance_scale=1.0))
    assert masks[-1].sum(1).tolist() == [32, 4]


def test_a_negative_prompt_without_guidance_is_said_to_be_idle(epsilon_bundle: Bundle) -> None:
    finished = run(engine_of(epsilon_bundle), wish(guidance_scale=1.0, negative_prompt="blue"))["a"]
    assert warnings_of(finished) == ["The negative prompt had no effect: it needs a guidance_scale above 1."]


def test_prompts_are_encoded_together_and_remembered(epsilon_bundle: Bundle) -> None:
    encoder = CountingEncoder(epsilon_bundle)
    engine = engine_of(dataclasses.replace(epsilon_bundle, text_encoder=encoder))
    assert encoder.batches == [1], "the empty prompt, once"
    run(engine, wish("a", prompt="a cat"), wish("b", prompt=LONG), wish("c", prompt="a cat"))
    run(engine, wish("d", prompt=LONG, negative_prompt="a cat"))
    assert encoder.batches == [1, 3], "three windows of two prompts in one call"


class CountingEncoder:
    def __init__(self, bundle: Bundle) -> None:
        self.config, self._encoder = bundle.text_encoder.config, bundle.text_encoder
        self.batches: list[int] = []

    def __call__(self, ids: torch.Tensor, **options: Any) -> Any:
        self.batches.append(len(ids))
        return self._encoder(ids, **options)


def test_a_text_encoder_that_raises_ends_only_what_it_read(epsilon_bundle: Bundle) -> None:
    encoder = AllergicEncoder(epsilon_bundle)
    engine = engine_of(dataclasses.replace(epsilon_bundle, text_encoder=encoder))
    last = run(engine, wish("long", prompt="red " * 20), wish("short"))
    assert slug(last["long"]) == "generation-failed"
    assert isinstance(last["short"], Finished)


class AllergicEncoder(CountingEncoder):
    """Raises for any batch with a prompt of ten tokens or more in it."""

    def __call__(self, ids: torch.Tensor, **options: Any) -> Any:
        if (ids[:, 10] != self.config.pad_token_id).any():
            raise RuntimeError("index out of range in self")
        return super().__call__(ids, **options)


def test_prompts_of_different_lengths_take_turns(epsilon_bundle: Bundle) -> None:
    bundle, unet = scripted(epsilon_bundle, lambda call, rows: None)
    run(engine_of(bundle), wish("long", prompt=LONG, num_inference_steps=2), wish("short", num_inference_steps=2))
    assert unet.batches == [2, 2, 2, 2]


def test_sdxl_reads_a_long_prompt_in_windows_and_pools_the_first(xl_bundle: Bundle) -> None:
    first = " ".join(["red"] * WINDOW)
    requests = wish(prompt=LONG), wish(prompt=first, width=2 * SIDE, negative_prompt="a dog")
    long, short = (request.passes[0].rows for request in prepared(xl_bundle, *requests))
    assert long.conditional[CONTEXT].shape == (64, 64)
    torch.testing.assert_close(long.conditional["text_embeds"], short.conditional["text_embeds"])
    assert not any(long.unconditional[name].any() for name in (CONTEXT, "text_embeds")), "no negative prompt is zeros"
    assert short.unconditional["text_embeds"].any()
    for conditions in (short.conditional, short.unconditional):
        assert conditions["time_ids"].tolist() == [SIDE, 2 * SIDE, 0, 0, SIDE, 2 * SIDE]


def test_an_sdxl_model_may_read_the_empty_negative_prompt_as_text(xl_bundle: Bundle) -> None:
    bundle = dataclasses.replace(xl_bundle, force_zeros_for_empty_prompt=False)
    [request] = prepared(bundle, wish())
    assert request.passes[0].rows.unconditional[CONTEXT].any()


def listing(bundle: Bundle, *vocabulary: str) -> Bundle:
    """The same model, with a list of its words."""
    return dataclasses.replace(bundle, defaults=bundle.defaults.model_copy(update={"vocabulary": vocabulary}))


def test_words_that_the_model_has_not_learned_are_said(epsilon_bundle: Bundle) -> None:
    bundle = listing(epsilon_bundle, "a red circle", "cat")
    prompts = {"prompt": "a red catt, a yellow banana", "negative_prompt": "a blurry cat"}
    unguided = wish("unguided", guidance_scale=1.0, num_inference_steps=1, **prompts)
    finished = run(
        engine_of(bundle), wish(num_inference_steps=1, **prompts), unguided, wish("b", num_inference_steps=1)
    )
    about = "tiny has not learned: catt (did you mean: cat?), yellow, banana."
    assert warnings_of(finished["a"]) == [about, "tiny has not learned, of the negative prompt: blurry."]
    no_effect = "The negative prompt had no effect: it needs a guidance_scale above 1."
    assert warnings_of(finished["unguided"]) == [no_effect, about], "what was not read is not judged"
    assert warnings_of(finished["b"]) == []


def test_a_model_without_a_list_warns_of_no_word(epsilon_bundle: Bundle) -> None:
    finished = run(engine_of(epsilon_bundle), wish(prompt="qwertz", num_inference_steps=1))
    assert warnings_of(finished["a"]) == []
