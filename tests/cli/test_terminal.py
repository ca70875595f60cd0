"""What a terminal gets to see: pictures in four ways, and no text that could do anything to it."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from app.cli.plain import plain
from app.cli.terminal_pictures import CELLS, Painter, detect, half_blocks, iterm2, kitty, sixel
from tests.app.conftest import Running
from tests.cli.conftest import Hand, picture
from tests.cli.terminal import STOOD, in_a_terminal


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({}, None),
    ],
)
def test_detection(environment: dict[str, str], way: str | None) -> None:
    assert detect(environment) == way


def test_kitty() -> None:
    data = os.urandom(10_000)
    parts = re.findall(r"\x1b_G(.*?);(.*?)\x1b\\", kitty(data))
    assert base64.b64decode("".join(chunk for _, chunk in parts)) == data
    assert [re.search(r"m=(\d)", head)[1] for head, _ in parts] == ["1", "1", "1", "0"]
    assert all(len(chunk) <= 4096 for _, chunk in parts)
    assert f"a=T,f=100,q=2,c={CELLS}" in parts[0][0]


def test_iterm2() -> None:
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=3;width=\d+:(.*)\a", iterm2(b"abc"))
    assert found is not None
    assert base64.b64decode(found[1]) == b"abc"


def unsixel(text: str) -> Image.Image:
    """A decoder of its own, to compare with."""
    found = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)((?:#\d+;2;\d+;\d+;\d+)*)(.*)\x1b\\', text)
    assert found is not None
    palette = {
        int(n): tuple(int(part) * 255 // 100 for part in (r, g, b))
        for n, r, g, b in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", found[3])
    }
    image = Image.new("RGB", (int(found[1]), int(found[2])))
    for band, body in enumerate(found[4].split("-")):
        for colour, line in re.findall(r"#(\d+)([^#$]*)", body):
            x = 0
            for run, char in re.findall(r"(?:!(\d+))?([?-~])", line):
                for _ in range(int(run or 1)):
                    for y in range(6):
                        if (ord(char) - 63) >> y & 1:
                            image.putpixel((x, band * 6 + y), palette[int(colour)])
                    x += 1
    return image


def test_sixel() -> None:
    before = Image.new("RGB", (20, 15), "white")
    before.paste((0, 0, 255), (3, 2, 9, 14))
    before.putpixel((19, 14), (255, 0, 0))
    assert unsixel(sixel(before)).tobytes() == before.tobytes()


def test_half_blocks() -> None:
    image = Image.new("RGB", (CELLS, 4), "red")
    image.paste("blue", (0, 1, CELLS, 2))
    first, second = half_blocks(image).splitlines()
    assert first == "\x1b[38;2;255;0;0;48;2;0;0;255m▀" * CELLS + "\x1b[0m"
    assert "0;0;255" not in second


def test_what_cannot_be_decoded_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    Painter("blocks", out).paint(b"no picture")
    assert out.getvalue() == ""
    assert "no preview" in capsys.readouterr().err
    for way in ("kitty", "sixel", "iterm2"):
        Painter(way, out).paint(picture("red", kind="webp"))
    assert out.getvalue().count("\n") == 3


def test_text_that_does_nothing() -> None:
    assert plain("a \x1b[31mred\x07\n circle\u202e") == "a [31mred circle"
    assert plain("abcdef", 4) == "abc…"


def test_bars_and_a_picture_on_a_real_terminal(gateway: Running, hand: Hand, tmp_path: Path) -> None:
    with in_a_terminal(gateway, "generate", "a frog", "a lion", "--preview", "-o", "out.png", cwd=tmp_path) as term:
        assert term.end() == 0
    assert b"\x1b[c" in term.raw, "it asked the terminal"
    assert term.lines[: len(STOOD)] == STOOD
    assert sum("▀" * CELLS in line for line in term.lines) == CELLS, "two square pictures, half a row for each pixel"
    assert [line.split()[0] for line in term.lines if line.startswith("out-")] in (
        ["out-0.png", "out-1.png"],
        ["out-1.png", "out-0.png"],
    )
