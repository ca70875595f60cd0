"""What a cleaned picture looks like: upright, in sRGB, of eight bits, and as much like the file as can be."""

from __future__ import annotations

import hashlib

import pytest
from PIL import Image, ImageChops

from app.pictures.clean_picture import UnfitPicture
from app.pictures.cleaning import clean
from tests.pictures import file_of, linear_profile, noise, picture_in

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_coloured() -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (64, 32), RED)
    picture.paste(BLUE, (32, 0, 64, 32))
    return picture


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest of any channel."""
    extremes = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()
    return max(most for _, most in extremes)


def test_the_pixels_of_a_lossless_file_stay() -> None:
    picture = noise()
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        cleaned = clean(file_of(picture, kind, **options))
        assert difference(picture_in(cleaned.data), picture) == 0
        assert cleaned.sha256 == hashlib.sha256(cleaned.data).hexdigest()


@pytest.mark.parametrize("options", [{"quality": 60}, {"quality": 95, "subsampling": 0}, {"progressive": True}])
def test_a_jpeg_loses_next_to_nothing(options: dict[str, object]) -> None:
    picture = Image.linear_gradient("L").resize((96, 96)).convert("RGB")
    file = file_of(picture, "JPEG", **options)
    cleaned = clean(file)
    assert difference(picture_in(cleaned.data), picture_in(file)) <= 3
    assert len(cleaned.data) <= len(file) * 1.6


@pytest.mark.parametrize(("orientation", "left"), [(1, RED), (2, BLUE), (3, BLUE), (4, RED)])
def test_exif_says_where_left_is(orientation: int, left: tuple[int, int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = picture_in(clean(file_of(two_coloured(), "PNG", exif=exif)).data)
    assert picture.getpixel((4, 16)) == left


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_says_nothing() -> None:
    picture = picture_in(clean(file_of(two_coloured(), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")).data)
    assert picture.getpixel((4, 16)) == RED


def test_sixteen_bits_become_eight() -> None:
    ramp = Image.new("I;16", (4, 1))
    ramp.putdata([0, 257 * 100, 257 * 200, 65_535])
    assert list(picture_in(clean(file_of(ramp)).data).tobytes()) == [0, 100, 200, 255]


@pytest.mark.parametrize(
    ("mode", "colour", "meant"),
    [
        ("RGB", (128, 128, 128), (188, 188, 188)),
        ("RGBA", (128, 128, 128, 77), (188, 188, 188, 77)),
        ("RGB", (255, 0, 0), (255, 0, 0)),
        ("L", 128, 128),
    ],
)
def test_colours_are_what_their_profile_means(mode: str, colour: object, meant: object) -> None:
    """Half of the light is 188 in sRGB. A profile for colours says nothing of a picture in grey."""
    file = file_of(Image.new(mode, (8, 8), colour), icc_profile=linear_profile())  # type: ignore[arg-type]
    assert picture_in(clean(file).data).getpixel((0, 0)) == meant


def test_the_same_file_is_the_same_picture() -> None:
    file = file_of(noise(), "JPEG")
    assert clean(file) == clean(file)
    again = clean(clean(file_of(noise())).data)
    assert clean(again.data).sha256 == again.sha256


def test_a_picture_of_another_type_is_refused_where_one_was_declared() -> None:
    file = file_of(noise(), "JPEG")
    assert clean(file, declared="image/jpeg") == clean(file)
    with pytest.raises(UnfitPicture, match="image/png, and is image/jpeg"):
        clean(file, declared="image/png")
