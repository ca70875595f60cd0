"""What the model can be asked for: colours, shapes, objects, scenes, places, styles, and their English.

Knows words and the colours behind their names; no pixels are made here.
"""

from __future__ import annotations

from collections.abc import Mapping

Colour = tuple[int, int, int]

COLOURS: Mapping[str, Colour] = {
    "red": (222, 41, 41),
    "orange": (245, 140, 30),
    "yellow": (252, 217, 50),
    "green": (52, 168, 72),
    "blue": (42, 98, 220),
    "purple": (138, 60, 190),
    "pink": (248, 140, 185),
    "brown": (130, 82, 48),
    "black": (28, 28, 30),
    "white": (250, 250, 250),
    "gray": (140, 144, 150),
    "cyan": (40, 200, 215),
}
"""sRGB, 0 to 255."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "ring", "cross")

SCENES: Mapping[str, tuple[str, ...]] = {
    "grass": ("on grass", "in a field", "on green grass"),
    "beach": ("at the beach", "on the beach", "on sand by the sea"),
    "snow": ("in the snow", "in winter"),
    "space": ("in space", "in outer space"),
    "night": ("at night", "under a night sky"),
    "underwater": ("underwater", "under the sea", "in the ocean"),
    "desert": ("in the desert",),
    "sky": ("in the sky", "among clouds"),
}
"""Scene to the phrases for it; the first is the usual one."""

POSITIONS: Mapping[str, tuple[float, float]] = {
    "on the left": (0.27, 0.5),
    "on the right": (0.73, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
    "in the top left corner": (0.26, 0.26),
    "in the top right corner": (0.74, 0.26),
    "in the bottom left corner": (0.26, 0.74),
    "in the bottom right corner": (0.74, 0.74),
}
"""Phrase to the centre of the thing, as a share of width and height."""

SIZES: Mapping[str, tuple[str, ...]] = {"small": ("small", "tiny"), "big": ("big", "large")}

STYLES: Mapping[str, tuple[str, ...]] = {
    "pixel": ("pixel art of {}", "{}, pixel art", "a pixel art picture of {}"),
    "bw": ("a black and white photo of {}", "{}, black and white", "a black and white picture of {}"),
    "sketch": ("a pencil sketch of {}", "{}, pencil sketch", "a line drawing of {}"),
}

FILLERS = ("a picture of {}", "an image of {}", "an illustration of {}", "{}, highly detailed", "{}, digital art")
"""Phrases that change nothing, so that a prompt may have them."""

COUNTS: Mapping[int, str] = {2: "two", 3: "three", 4: "four"}

UNCOUNTABLE = frozenset(
    {"grapes", "cherries", "cheese", "broccoli", "fire", "flame", "coffee", "cup of coffee", "slice of pizza"}
    | {"ice cream", "french fries", "glasses"}
    | {"sun", "moon", "crescent moon", "rainbow", "football"}
)
PLURAL_ONLY = ("grapes", "cherries", "fries", "glasses")
IRREGULAR: Mapping[str, str] = {
    "fish": "fish",
    "tropical fish": "tropical fish",
    "mouse": "mice",
    "wolf": "wolves",
    "tomato": "tomatoes",
    "leaf": "leaves",
    "maple leaf": "maple leaves",
}

OBJECTS: Mapping[str, tuple[str, ...]] = {
    # animals
    "cat-face": ("cat", "kitten"),
    "dog-face": ("dog", "puppy"),
    "fox": ("fox",),
    "panda": ("panda",),
    "lion": ("lion",),
    "tiger-face": ("tiger",),
    "bear": ("bear",),
    "koala": ("koala",),
    "wolf": ("wolf",),
    "rabbit-face": ("rabbit", "bunny"),
    "frog": ("frog",),
    "monkey-face": ("monkey",),
    "pig-face": ("pig",),
    "cow-face": ("cow",),
    "mouse-face": ("mouse",),
    "chicken": ("chicken",),
    "penguin": ("penguin",),
    "owl": ("owl",),
    "duck": ("duck",),
    "elephant": ("elephant",),
    "horse": ("horse",),
    "turtle": ("turtle",),
    "octopus": ("octopus",),
    "whale": ("whale",),
    "dolphin": ("dolphin",),
    "fish": ("fish",),
    "tropical-fish": ("tropical fish",),
    "shark": ("shark",),
    "butterfly": ("butterfly",),
    "honeybee": ("bee", "honeybee"),
    "lady-beetle": ("ladybug",),
    "snail": ("snail",),
    "crab": ("crab",),
    "t-rex": ("dinosaur", "t-rex"),
    "dragon-face": ("dragon",),
    "unicorn": ("unicorn",),
    # food
    "red-apple": ("apple",),
    "banana": ("banana",),
    "grapes": ("grapes",),
    "strawberry": ("strawberry",),
    "watermelon": ("watermelon",),
    "lemon": ("lemon",),
    "pineapple": ("pineapple",),
    "cherries": ("cherries",),
    "pear": ("pear",),
    "peach": ("peach",),
    "tomato": ("tomato",),
    "eggplant": ("eggplant",),
    "carrot": ("carrot",),
    "broccoli": ("broccoli",),
    "mushroom": ("mushroom",),
    "avocado": ("avocado",),
    "pizza": ("pizza", "slice of pizza"),
    "hamburger": ("burger", "hamburger"),
    "french-fries": ("french fries",),
    "doughnut": ("donut", "doughnut"),
    "ice-cream": ("ice cream",),
    "cupcake": ("cupcake",),
    "birthday-cake": ("cake", "birthday cake"),
    "cookie": ("cookie",),
    "hot-beverage": ("coffee", "cup of coffee"),
    "egg": ("egg",),
    "cheese-wedge": ("cheese",),
    # things that move
    "automobile": ("car",),
    "bus": ("bus",),
    "taxi": ("taxi",),
    "fire-engine": ("fire truck",),
    "bicycle": ("bicycle", "bike"),
    "airplane": ("airplane", "plane"),
    "rocket": ("rocket",),
    "sailboat": ("boat", "sailboat"),
    "ship": ("ship",),
    "helicopter": ("helicopter",),
    "locomotive": ("train", "locomotive"),
    "tractor": ("tractor",),
    "flying-saucer": ("ufo", "flying saucer"),
    "satellite": ("satellite",),
    # outdoors
    "house": ("house",),
    "castle": ("castle",),
    "tent": ("tent",),
    "ferris-wheel": ("ferris wheel",),
    "evergreen-tree": ("pine tree",),
    "deciduous-tree": ("tree",),
    "palm-tree": ("palm tree",),
    "christmas-tree": ("christmas tree",),
    "cactus": ("cactus",),
    "sunflower": ("sunflower",),
    "rose": ("rose",),
    "tulip": ("tulip",),
    "maple-leaf": ("maple leaf", "leaf"),
    "four-leaf-clover": ("clover",),
    "sun": ("sun",),
    "crescent-moon": ("moon", "crescent moon"),
    "globe-showing-europe-africa": ("globe",),
    "rainbow": ("rainbow",),
    "cloud": ("cloud",),
    "snowflake": ("snowflake",),
    "snowman": ("snowman",),
    "fire": ("fire", "flame"),
    "umbrella": ("umbrella",),
    "mountain": ("mountain",),
    "volcano": ("volcano",),
    # figures and things
    "robot": ("robot",),
    "ghost": ("ghost",),
    "alien": ("alien",),
    "skull": ("skull",),
    "jack-o-lantern": ("pumpkin",),
    "grinning-face": ("smiley face", "smiley"),
    "clown-face": ("clown",),
    "crown": ("crown",),
    "key": ("key",),
    "bell": ("bell",),
    "anchor": ("anchor",),
    "guitar": ("guitar",),
    "drum": ("drum",),
    "violin": ("violin",),
    "soccer-ball": ("soccer ball", "football"),
    "basketball": ("basketball",),
    "tennis": ("tennis ball",),
    "balloon": ("balloon",),
    "kite": ("kite",),
    "wrapped-gift": ("gift", "present"),
    "gem-stone": ("gem", "diamond gem"),
    "trophy": ("trophy",),
    "light-bulb": ("light bulb",),
    "hammer": ("hammer",),
    "magnet": ("magnet",),
    "camera": ("camera",),
    "television": ("television", "tv"),
    "alarm-clock": ("alarm clock", "clock"),
    "open-book": ("book",),
    "envelope": ("envelope",),
    "pencil": ("pencil",),
    "teddy-bear": ("teddy bear",),
    "teapot": ("teapot",),
    "chair": ("chair",),
    "glasses": ("glasses",),
    "top-hat": ("hat", "top hat"),
    "t-shirt": ("t-shirt", "shirt"),
    "eye": ("eye",),
}
"""Icon of the set to the nouns a caption calls it; the first is the usual one."""


def article(noun: str) -> str:
    """The noun, with or without adjectives, after its indefinite article; plural-only nouns have none."""
    if noun.endswith(PLURAL_ONLY):
        return noun
    vowel = noun[0] in "aeiou" and not noun.startswith(("uni", "ufo"))
    return f"{'an' if vowel else 'a'} {noun}"


def plural(noun: str) -> str | None:
    """The plural, or None for a noun that is not counted."""
    if noun in UNCOUNTABLE:
        return None
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "ss", "sh")) else "s")
