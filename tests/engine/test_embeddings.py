"""Textual inversions: a prompt that names one is read as by the stock pipeline's load_textual_inversion."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.driving import distance, engine_of, final_latents, run, stock, wish
from tests.engine.test_equation import IN_COMPANY
from tests.engine.tiny_models import save_tiny_model, save_tiny_xl
from worker.engine.events import Finished
from worker.families.learned_words import LearnedWords
from worker.models.announced import describe
from worker.models.bundle import Bundle, load, stock_pipeline
from worker.models.embedding_file import load_words, read_embedding
from worker.models.quiet import quiet_libraries

WIDTH = 32
VECTORS = {"cat-toy": 1, "bad_hands.v2": 3}


@dataclasses.dataclass(frozen=True)
class Kit:
    """A tiny model, `plain` and with the textual inversions of `folder`."""

    plain: Bundle
    bundle: Bundle
    folder: Path


@pytest.fixture(scope="module", params=["sd1", "xl"])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    model, folder = tmp_path_factory.mktemp("model") / "tiny", tmp_path_factory.mktemp("embeddings")
    is_xl = request.param == "xl"
    names = ("clip_l", "clip_g") if is_xl else ("emb_params",)
    generator = torch.Generator().manual_seed(0)
    for word, count in VECTORS.items():
        tensors = {name: torch.randn(count, WIDTH, generator=generator) for name in names}
        save_file(tensors, folder / f"{word}.safetensors")
    with quiet_libraries():
        saved = save_tiny_xl(model) if is_xl else save_tiny_model(model, prediction_type="epsilon")
        return Kit(load(saved), load(saved, embeddings=folder), folder)


def with_textual_inversions(kit: Kit) -> Bundle:
    """The plain model after the stock pipeline's own loading."""
    bundle = copy.deepcopy(kit.plain)
    pipeline = stock_pipeline(bundle, "ddim")
    for word in VECTORS:
        tensors = load_file(kit.folder / f"{word}.safetensors")
        for name, tensor in tensors.items():
            second = "_2" if name == "clip_g" else ""
            pipeline.load_textual_inversion(
                tensor,
                token=word,
                text_encoder=getattr(bundle, f"text_encoder{second}"),
                tokenizer=getattr(bundle, f"tokenizer{second}"),
            )
    return bundle


PROMPTS = ("a cat-toy in the snow", "bad_hands.v2, a red CAT-TOY", "a red circle", "cat-toy cat-toy")


def test_prompts_that_name_them_are_the_stock_pipelines(kit: Kit) -> None:
    """One vector and several, twice, in capitals, as the negative prompt, beside prompts without."""
    requests = [
        wish(str(k), prompt=prompt, negative_prompt=PROMPTS[-k - 1], seed=k, num_inference_steps=4)
        for k, prompt in enumerate(PROMPTS)
    ]
    reference = with_textual_inversions(kit)
    together = final_latents(kit.bundle, *requests)
    for request in requests:
        asked = request.model_copy(update={"prompt": request.prompt.lower()})
        expected = stock(reference, asked, output_type="latent")
        assert min(distance(latents, expected) for latents in together) <= IN_COMPANY, request.prompt


def test_a_word_reaches_the_picture_and_is_no_part_of_another(kit: Kit) -> None:
    def drawn(bundle: Bundle, prompt: str) -> torch.Tensor:
        return final_latents(bundle, wish(prompt=prompt, num_inference_steps=2))[0]

    assert distance(drawn(kit.bundle, "a cat-toy"), drawn(kit.plain, "a cat-toy")) > 25 * IN_COMPANY
    assert torch.equal(drawn(kit.bundle, "a cat-toyota"), drawn(kit.plain, "a cat-toyota"))


def test_vectors_count_as_tokens_and_are_left_over_by_name(kit: Kit) -> None:
    """Three windows of 30 tokens are read: thirty times three, and one word more."""
    many = " ".join(["bad_hands.v2"] * 31)
    finished = run(engine_of(kit.bundle), wish(prompt=many, guidance_scale=1.0, num_inference_steps=1))["a"]
    assert isinstance(finished, Finished)
    assert finished.warnings == ["Only the first 90 tokens of the prompt were read; not read: 'bad_hands.v2'."]


def test_the_record_names_the_files_of_the_prompts_that_count(kit: Kit) -> None:
    asked = [
        wish("a", prompt="a Cat-Toy", negative_prompt="bad_hands.v2", num_inference_steps=1),
        wish("b", prompt="a cat-toy", negative_prompt="bad_hands.v2", num_inference_steps=1, guidance_scale=1.0),
        wish("c", num_inference_steps=1),
    ]
    last: dict[str, Any] = run(engine_of(kit.bundle), *asked)
    digest = {word: hashlib.sha256((kit.folder / f"{word}.safetensors").read_bytes()).hexdigest() for word in VECTORS}
    assert last["a"].drawn_with == {"embedding_files": digest}
    assert last["b"].drawn_with == {"embedding_files": {"cat-toy": digest["cat-toy"]}}
    assert last["c"].drawn_with == {}


def test_the_card_lists_them_and_they_are_no_unknown_words(kit: Kit) -> None:
    card = describe(kit.bundle, seats=1, limits={})
    assert sorted(card.embeddings) == sorted(VECTORS)
    assert card.vocabulary == ()
    listed = kit.bundle.defaults.model_copy(update={"vocabulary": ("a", "red", "circle")})
    bundle = dataclasses.replace(kit.bundle, defaults=listed)
    assert set(VECTORS) < set(bundle.vocabulary)
    finished = run(engine_of(bundle), wish(prompt="a red cat-toy", num_inference_steps=1))["a"]
    assert isinstance(finished, Finished)
    assert finished.warnings == []


def test_the_end_is_found_where_an_old_configuration_hides_it(kit: Kit) -> None:
    """With an end token of 2, transformers takes the largest id for the end, which would be the word's own."""
    bundle = copy.deepcopy(kit.plain)
    parts = {name: getattr(bundle, name) for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    parts = {name: part for name, part in parts.items() if part is not None}
    encoders = [name for name in parts if name.startswith("text_encoder")]
    for name in encoders:
        getattr(parts[name], "text_model", parts[name]).eos_token_id = 2
    files = {
        word: read_embedding(word, kit.folder / f"{word}.safetensors", dict.fromkeys(encoders, WIDTH))
        for word in VECTORS
    }
    words = load_words(files, parts)
    for name in encoders:
        end = parts[name.replace("text_encoder", "tokenizer")].eos_token_id
        start = parts[name.replace("text_encoder", "tokenizer")].bos_token_id
        ids = torch.tensor([[start, *words["cat-toy"].ids, end, end]])
        answer = parts[name](ids)
        pooled = getattr(answer, "pooler_output", None)
        states = answer.last_hidden_state
        if pooled is None:
            pooled, states = answer.text_embeds, parts[name].text_projection(states)
        assert torch.allclose(pooled[0], states[0, 2])
        assert not torch.allclose(pooled[0], states[0, 1])


def test_words_stand_by_themselves() -> None:
    words = LearnedWords({"ink": range(10, 11), "ink wash": range(11, 13), "v1.0": range(13, 14)})
    assert words.split("drinking INK, ink wash; inky v1x0 v1.0") == [
        "drinking ", range(10, 11), ", ", range(11, 13), "; inky v1x0 ", range(13, 14), "",
    ]  # fmt: skip
    assert words.named_in("Ink and v1.0, ink") == ["ink", "v1.0"]
    assert [*words.said([1, 11, 12, 11, 12, 2, 10])] == [[1], "ink wash", [], "ink wash", [2], "ink", []]
    assert LearnedWords({}).split("ink") == ["ink"]
    assert LearnedWords({}).named_in("ink") == []
