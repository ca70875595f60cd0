"""What is drawn, what is said of it, and what training never sees."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from recipes.starter import exam
from recipes.starter.captions import caption, noun_caption, plain
from recipes.starter.plan import HELD_OUT_OF, Plan, Thing, Wishes, _draw, draw_plan, is_held_out
from recipes.starter.stream import BUCKETS, NATIVE, SQUARE, PlanStream, batches, with_square
from recipes.starter.words import COLOURS, OBJECTS, SCENES, SHAPES, article, plural


def plans(count: int, wishes: Wishes | None = None, *, seed: int = 0) -> list[Plan]:
    chance = random.Random(seed)
    return [draw_plan(chance, 128, 128, wishes or Wishes()) for _ in range(count)]


def made(name: str, colour: str | None = None, background: str = "blue", **said: object) -> Plan:
    thing = Thing(name=name, colour=colour, rgb=COLOURS[colour] if colour else None, cx=0.5, cy=0.5, size=90)
    values = {"mode": "single", "things": (thing,), "background_rgb": COLOURS.get(background)} | said
    return Plan(width=128, height=128, background=background, **values)  # type: ignore[arg-type]


def test_training_never_draws_a_combination_of_the_examination() -> None:
    trained = {plan.key for plan in plans(10_000)}
    examined = {plan.key for name in exam.CATEGORIES for plan in exam.plans(name, 10)}
    assert len(examined) > 100
    assert not trained & examined


def test_about_one_combination_in_twelve_is_held_out() -> None:
    chance = random.Random(3)
    keys = {(plan.key, is_held_out(plan)) for plan in (_draw(chance, 128, 128, Wishes()) for _ in range(20_000))}
    share = sum(held for _, held in keys) / len(keys)
    assert abs(share - 1 / HELD_OUT_OF) < 0.02


def test_place_size_and_style_do_not_bring_a_held_out_combination_back() -> None:
    [plan] = plans(1, Wishes(modes=("single",), held_out=True))
    moved = replace(plan.things[0], cx=0.2, cy=0.7, size=30, rgb=(1, 2, 3), flip=True)
    other = replace(plan, things=(moved,), style="bw", position="on the left", size="small", width=256)
    assert other.key == plan.key
    assert is_held_out(other)


def test_the_same_seed_gives_the_same_examination() -> None:
    assert exam.plans("count", 10) == exam.plans("count", 10)
    assert exam.plans("count", 10) != exam.plans("count", 10, seed=1)


def test_an_examination_asks_for_as_many_things_as_it_can() -> None:
    asked = {plan.things[0].name for plan in exam.plans("object", 60)}
    assert len(asked) > 50


def test_wishes_that_leave_nothing_are_refused() -> None:
    everything = Wishes(modes=("single",), shape_share=0, tint_share=0, scene_share=0)
    keys = {name: [made(name, background=colour) for colour in COLOURS] for name in OBJECTS}
    [name, *_] = [name for name, all_of in keys.items() if not any(map(is_held_out, all_of))]
    with pytest.raises(ValueError, match="allow more objects"):
        draw_plan(random.Random(0), 128, 128, replace(everything, objects=(name,), held_out=True))


def test_no_thing_hides_in_its_background() -> None:
    for plan in plans(3000):
        assert all(thing.colour != plan.background for thing in plan.things)
        assert plan.mode != "count" or len({(thing.name, thing.colour) for thing in plan.things}) == 1


@pytest.mark.parametrize("canvas", [(128, 128), (192, 128), (128, 192), (256, 256)])
def test_every_thing_lies_on_its_canvas(canvas: tuple[int, int]) -> None:
    width, height = canvas
    chance = random.Random(1)
    for _ in range(2000):
        plan = draw_plan(chance, width, height, Wishes())
        for thing in plan.things:
            reach = thing.size / 2 - 0.07 * min(canvas)
            assert reach <= thing.cx * width <= width - reach
            assert reach <= thing.cy * height <= height - reach


PLAIN = {
    "a red circle on a blue background": made("circle", "red"),
    "an orange cat on a white background": made("cat-face", "orange", "white"),
    "glasses on an orange background": made("glasses", background="orange"),
    "an octopus underwater": made("octopus", background="underwater"),
    "a small apple in the top left corner on a pink background": made(
        "red-apple", background="pink", size="small", position="in the top left corner"
    ),
    "a pencil sketch of a car on grass": made("automobile", background="grass", style="sketch"),
}


@pytest.mark.parametrize("words", PLAIN)
def test_the_usual_words(words: str) -> None:
    assert plain(PLAIN[words]) == words


def test_a_count_is_said_in_the_plural() -> None:
    three = made("star", "cyan", mode="count")
    assert plain(replace(three, things=three.things * 3)) == "three cyan stars on a blue background"
    two = made("mouse-face", mode="count")
    assert plain(replace(two, things=two.things * 2)) == "two mice on a blue background"


def test_a_pair_is_said_in_either_order() -> None:
    first, second = made("circle", "red").things[0], made("heart", "white").things[0]
    plan = made("circle", mode="pair", things=(first, second), relation="beside")
    said = {caption(random.Random(seed), plan) for seed in range(300)}
    assert any("a red circle to the left of a white heart" in words for words in said)
    assert any("a white heart to the right of a red circle" in words for words in said)
    assert not any("white heart to the left" in words or "above" in words for words in said)


def test_another_noun_in_the_same_place() -> None:
    assert noun_caption(made("frog", background="snow"), "banana") == "a banana in the snow"


def test_captions_vary_and_sometimes_leave_the_background_unsaid() -> None:
    plan = made("circle", "red")
    said = [caption(random.Random(seed), plan) for seed in range(1000)]
    unsaid = sum("blue" not in words.lower() for words in said)
    assert len(set(said)) > 10
    assert 50 < unsaid < 160


def test_every_caption_fits_the_text_encoder(tokenizer: object) -> None:
    chance = random.Random(4)
    words = [caption(chance, plan) for plan in plans(3000)]
    lengths = [len(ids) for ids in tokenizer(words).input_ids]  # type: ignore[operator]
    assert max(lengths) <= 32 + 8, "a vocabulary of 300 merges is allowed a few tokens more than the real one"


@pytest.mark.parametrize("noun", ["apple", "unicorn", "ufo", "orange star", "french fries", "umbrella"])
def test_articles(noun: str) -> None:
    expected = {
        "apple": "an apple",
        "unicorn": "a unicorn",
        "ufo": "a ufo",
        "orange star": "an orange star",
        "french fries": "french fries",
        "umbrella": "an umbrella",
    }
    assert article(noun) == expected[noun]


def test_plurals() -> None:
    words = ("fox", "butterfly", "key", "bus", "wolf", "fish", "octopus", "grapes", "tomato")
    expected = ["foxes", "butterflies", "keys", "buses", "wolves", "fish", "octopuses", None, "tomatoes"]
    assert [plural(word) for word in words] == expected


def test_no_two_names_share_a_noun() -> None:
    nouns = [noun for nouns in OBJECTS.values() for noun in nouns] + [*SHAPES, *SCENES]
    assert len(nouns) == len(set(nouns))


def test_a_batch_has_equal_pixels_whatever_its_size(small_sprites: object) -> None:
    names = small_sprites.names  # type: ignore[attr-defined]
    for bucket in BUCKETS:
        batch = next(iter(PlanStream(names, rows=64, seed=0, buckets=(bucket,))))
        pixels = len(batch.plans) * bucket.width * bucket.height
        assert abs(pixels / (64 * NATIVE * NATIVE) - 1) < 0.03
        assert {(plan.width, plan.height) for plan in batch.plans} == {(bucket.width, bucket.height)}


def test_more_squares_leave_the_other_sizes_their_proportions() -> None:
    assert with_square(BUCKETS[0].share) == BUCKETS
    square, *others = with_square(0.79)
    assert square.share + sum(bucket.share for bucket in others) == pytest.approx(1)
    assert [bucket.share for bucket in others] == pytest.approx([bucket.share / 2 for bucket in BUCKETS[1:]])


def test_equal_seeds_give_equal_streams_and_others_do_not(small_sprites: object) -> None:
    names = small_sprites.names  # type: ignore[attr-defined]
    first, second, other = (next(iter(PlanStream(names, rows=8, seed=seed))).captions for seed in (1, 1, 2))
    assert first == second
    assert first != other


@pytest.mark.parametrize("processes", [0, 2])
def test_batches_that_are_taken_together_have_one_size(small_sprites: object, processes: int) -> None:
    names = small_sprites.names  # type: ignore[attr-defined]
    stream = batches(PlanStream(names, rows=4, seed=3, alike=2), processes=processes)
    sizes = [(batch.packed.width, batch.packed.height) for batch in itertools.islice(stream, 24)]
    assert sizes[::2] == sizes[1::2]
    assert len(set(sizes)) > 1


def test_close_batches_differ_only_in_their_things(small_sprites: object) -> None:
    names = small_sprites.names  # type: ignore[attr-defined]
    drawn = list(itertools.islice(PlanStream(names, rows=24, seed=5, buckets=SQUARE, close=1.0), 6))
    kinds = [{(plan.background, plan.mode) for plan in batch.plans} for batch in drawn]
    assert [len(kind) for kind in kinds] == [1] * 6
    assert len(set.union(*kinds)) > 1
    assert len({plan.key for plan in drawn[0].plans}) > 1
    assert not any(is_held_out(plan) for batch in drawn for plan in batch.plans)
