"""Pictures in a terminal: by the protocols of kitty and iTerm2, as sixels, or of coloured half blocks.

Knows which terminal can do what, by its environment or by asking it. Refuses to know where a picture comes from.
"""

from __future__ import annotations

import base64
import os
import re
import select
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

from app.cli.decoding import decoded, is_small_png
from app.cli.plain import plain
from app.contract.messages.picture_record import PictureError

if TYPE_CHECKING:
    from PIL import Image

Way = Literal["kitty", "iterm2", "sixel", "blocks"]

CELLS = 40
"""Width of a picture in the terminal, in characters."""

SIXEL_SIDE = 320
"""Pixels."""

SIXEL_COLOURS = 255
ANSWER_SECONDS = 0.3
"""A terminal answers in a few milliseconds, over ssh in some tens."""

KITTY_CHUNK = 4096
_SIXEL_TERMINALS = ("foot", "mlterm", "contour", "yaft")
_RUN = re.compile(r"(.)\1{3,}")
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")


def detect(environment: Mapping[str, str]) -> Way | None:
    """How the terminal of this environment shows pictures, as far as the environment tells."""
    if "TMUX" in environment or environment.get("TERM", "").startswith(("screen", "tmux")):
        # A multiplexer swallows or misplaces them.
        return None
    program, term = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    if term.startswith(_SIXEL_TERMINALS) or "sixel" in term:
        return "sixel"
    return None


@dataclass(frozen=True, slots=True)
class Painter:
    """Writes pictures to a terminal, or nothing."""

    way: Way | None
    out: IO[str]

    @classmethod
    def for_terminal(cls, wanted: bool | None) -> Painter:
        """`wanted` True asks the terminal too, and falls back to half blocks. Nothing is painted into a file."""
        if wanted is False or not sys.stdout.isatty():
            return cls(None, sys.stdout)
        way = detect(os.environ)
        if way is None and wanted:
            way = "sixel" if _says_sixel() else "blocks"
        return cls(way, sys.stdout)

    def paint(self, data: bytes) -> None:
        """Show a PNG, JPEG or WebP. What cannot be decoded here is left out: the file is saved already."""
        if self.way is None:
            return
        try:
            text = _drawn(self.way, data)
        except (PictureError, OSError) as error:
            print(f"no preview: {plain(error)}", file=sys.stderr)
            return
        self.out.write(text + "\n")
        self.out.flush()


def _drawn(way: Way, data: bytes) -> str:
    # A terminal that decodes by itself is not asked to unpack what we would not.
    if way in ("iterm2", "kitty") and is_small_png(data):
        return iterm2(data) if way == "iterm2" else kitty(data)
    image = decoded(data)
    if way == "iterm2":
        return iterm2(data)
    if way == "kitty":
        return kitty(_as_png(image))
    return sixel(image) if way == "sixel" else half_blocks(image)


def kitty(png: bytes) -> str:
    """https://sw.kovidgoyal.net/kitty/graphics-protocol/: a=T shows at once, f=100 is PNG, c is the width in cells."""
    payload = base64.b64encode(png).decode()
    chunks = [payload[at : at + KITTY_CHUNK] for at in range(0, len(payload), KITTY_CHUNK)]
    heads = [f"a=T,f=100,q=2,c={CELLS},"] + [""] * (len(chunks) - 1)
    more = [1] * (len(chunks) - 1) + [0]
    return "".join(f"\x1b_G{head}m={m};{chunk}\x1b\\" for head, m, chunk in zip(heads, more, chunks, strict=True))


def iterm2(data: bytes) -> str:
    """https://iterm2.com/documentation-images.html"""
    return f"\x1b]1337;File=inline=1;size={len(data)};width={CELLS}:{base64.b64encode(data).decode()}\a"


def sixel(image: Image.Image) -> str:
    """DEC STD 070, chapter 9: six rows of pixels at a time, colour by colour, with runs shortened."""
    image = image.copy()
    image.thumbnail((SIXEL_SIDE, SIXEL_SIDE))
    paletted = image.quantize(SIXEL_COLOURS)
    width, height = paletted.size
    palette, pixels = paletted.getpalette() or [], paletted.tobytes()
    used = sorted(set(pixels))
    colours = "".join(
        f"#{n};2;" + ";".join(str(part * 100 // 255) for part in palette[3 * n : 3 * n + 3]) for n in used
    )
    rows = [pixels[at : at + width] for at in range(0, width * height, width)]
    bands = "-".join(_sixel_band(rows[top : top + 6]) for top in range(0, height, 6))
    return f'\x1bPq"1;1;{width};{height}{colours}{bands}\x1b\\'


def _sixel_band(rows: list[bytes]) -> str:
    lines: defaultdict[int, bytearray] = defaultdict(lambda: bytearray(b"?" * len(rows[0])))
    for y, row in enumerate(rows):
        for x, colour in enumerate(row):
            lines[colour][x] += 1 << y
    runs = {colour: _RUN.sub(lambda run: f"!{len(run[0])}{run[1]}", line.decode()) for colour, line in lines.items()}
    return "$".join(f"#{colour}{line}" for colour, line in runs.items())


def half_blocks(image: Image.Image, width: int = CELLS, height: int | None = None) -> str:
    """Two pixels a character: the upper one as ink, the lower one as paper. `height` is an even number of pixels, as
    the picture's proportions have it where it is not given."""
    image = image.convert("RGB").resize((width, height or max(2, round(width * image.height / image.width) // 2 * 2)))
    pixels = image.tobytes()

    def colour(x: int, y: int) -> str:
        at = 3 * (y * width + x)
        return ";".join(map(str, pixels[at : at + 3]))

    lines = (
        "".join(f"\x1b[38;2;{colour(x, y)};48;2;{colour(x, y + 1)}m▀" for x in range(width)) + "\x1b[0m"
        for y in range(0, image.height, 2)
    )
    return "\n".join(lines)


def _as_png(image: Image.Image) -> bytes:
    import io

    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _says_sixel() -> bool:
    """Ask the terminal for its attributes (DA1); 4 among them is sixel graphics."""
    if not sys.stdin.isatty():
        return False
    try:
        with _unbuffered(sys.stdin.fileno()):
            sys.stdout.write("\x1b[c")
            sys.stdout.flush()
            return b"4" in _attributes(sys.stdin.fileno())
    except (OSError, ImportError):
        return False


def _attributes(descriptor: int) -> list[bytes]:
    said = b""
    while select.select([descriptor], [], [], ANSWER_SECONDS)[0]:
        said += os.read(descriptor, 64)
        if found := _ATTRIBUTES.search(said):
            return found[1].split(b";")
    return []


@contextmanager
def _unbuffered(descriptor: int) -> Iterator[None]:
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
