"""The words for what Diorama shows: colours, patterns, things, parts, stuff and settings, and their synonyms.

Index maps count from 1 in the order of these tuples; 0 means "nothing of this kind".
"""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")

PATTERNS = (
    "plain", "horizontal stripes", "vertical stripes", "diagonal stripes", "dots",
    "checks", "grid", "waves", "zigzag", "speckle",
)  # fmt: skip

THINGS = (
    "house", "car", "tree", "person", "boat", "fish", "bird", "cat", "dog", "flower", "mushroom", "cup",
    "clock", "chair", "lamp", "umbrella", "ball", "kite", "bicycle", "train", "plane", "rocket", "star", "moon",
    "cactus", "fence", "ladder", "sign", "butterfly", "snowman", "table", "apple", "tent", "sun", "tractor",
)  # fmt: skip

STUFF = (
    "sky", "cloud", "grass", "hill", "sand", "water", "dune", "snow", "road", "pavement", "building",
    "foliage", "ground", "wall", "floor", "rug", "field", "picture",
)  # fmt: skip

OBJECTS = THINGS + STUFF  # what the object map counts: things first, then what a setting is made of

PARTS = (
    "wall", "roof", "window", "door", "chimney", "body", "wheel", "trunk", "crown", "face", "hair", "torso", "arm",
    "leg",
    "hull", "sail", "mast", "fin", "tail", "eye", "head", "ear", "beak", "wing", "stem", "leaf", "petal", "centre",
    "cap",
    "handle", "rim", "hand", "back", "seat", "shade", "pole", "base", "canopy", "frame", "nose", "flame", "post",
    "rail",
    "rung", "board", "hat", "top", "ray",
)  # fmt: skip

SETTINGS = ("meadow", "beach", "sea", "desert", "snowfield", "night sky", "street", "forest", "room", "farmland")

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")

SIGN_WORDS = (
    "stop",
    "taxi",
    "cafe",
    "open",
    "exit",
    "shop",
    "park",
    "zoo",
    "bus",
    "go",
    "hotel",
    "milk",
    "news",
    "sale",
    "bar",
)

RELATIONS = ("on", "above", "left of", "in front of")

KINDS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "pattern": PATTERNS,
    "object": OBJECTS,
    "part": PARTS,
    "text": LETTERS,
}

SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("crimson", "scarlet"),
    "orange": ("amber",),
    "yellow": ("golden", "gold"),
    "blue": ("azure", "navy"),
    "purple": ("violet", "lilac"),
    "pink": ("rose", "rosy"),
    "brown": ("tan", "chestnut"),
    "black": ("dark",),
    "white": ("pale",),
    "grey": ("gray", "silver"),
    "plain": ("smooth", "uniform", "solid"),
    "horizontal stripes": ("horizontal lines", "horizontal bands"),
    "vertical stripes": ("vertical lines", "vertical bands"),
    "diagonal stripes": ("diagonal lines", "slanted lines", "slanting stripes"),
    "dots": ("spots", "polka dots", "dotted"),
    "checks": ("checkered pattern", "checkerboard", "checked"),
    "grid": ("grid lines", "mesh", "crossed lines"),
    "waves": ("wavy lines", "ripples", "wavy"),
    "zigzag": ("zig zag lines", "zigzags", "zigzag lines"),
    "speckle": ("speckles", "speckled", "grainy"),
    "house": ("home", "cottage"),
    "car": ("automobile", "auto"),
    "person": ("man", "human", "woman", "people"),
    "boat": ("sailboat", "ship"),
    "cat": ("kitten",),
    "dog": ("puppy",),
    "flower": ("blossom", "bloom"),
    "mushroom": ("toadstool",),
    "cup": ("mug",),
    "lamp": ("lantern",),
    "umbrella": ("parasol",),
    "bicycle": ("bike",),
    "train": ("locomotive",),
    "plane": ("airplane", "aircraft"),
    "rocket": ("spaceship",),
    "moon": ("crescent",),
    "sign": ("signboard", "signpost"),
    "tent": ("teepee",),
    "table": ("desk",),
    "grass": ("lawn",),
    "hill": ("mountain",),
    "water": ("lake",),
    "building": ("tower", "skyscraper"),
    "foliage": ("bushes", "shrubbery"),
    "ground": ("soil", "earth"),
    "road": ("asphalt",),
    "pavement": ("sidewalk",),
    "field": ("furrows", "crops"),
    "picture": ("painting",),
    "rug": ("carpet",),
    "crown": ("treetop",),
    "torso": ("shirt", "clothes"),
    "top": ("table top", "tabletop"),
    "back": ("chair back", "backrest"),
    "wheel": ("tire", "tyre"),
    "canopy": ("umbrella top",),
    "centre": ("center",),
    "meadow": ("grassland",),
    "beach": ("shore", "seaside"),
    "sea": ("ocean",),
    "snowfield": ("winter scene", "snowy field"),
    "night sky": ("night",),
    "street": ("city", "town"),
    "forest": ("woods",),
    "room": ("indoors",),
    "farmland": ("farm", "countryside"),
}

ADJECTIVES: dict[str, str] = {
    "plain": "plain",
    "horizontal stripes": "horizontally striped",
    "vertical stripes": "vertically striped",
    "diagonal stripes": "diagonally striped",
    "dots": "dotted",
    "checks": "checkered",
    "grid": "grid-patterned",
    "waves": "wavy",
    "zigzag": "zigzag",
    "speckle": "speckled",
}

# Words that are understood in a text, but never written, so that generated texts stay the same.
READ_SYNONYMS: dict[str, tuple[str, ...]] = {
    "orange": ("ochre",),
    "blue": ("cyan", "turquoise"),
    "purple": ("magenta", "lavender"),
    "brown": ("beige",),
    "dots": ("dot", "polka dot", "polka dotted", "spotted", "spotty"),
    "checks": ("check", "checker", "chequered", "chequerboard", "checkerboard pattern"),
    "grid": ("gridlines", "grid pattern"),
    "waves": ("wave", "wavy pattern"),
    "zigzag": ("zig zag", "chevron"),
    "speckle": ("grain", "noise"),
    "house": ("cabin", "hut", "barn"),
    "car": ("sedan", "motorcar"),
    "person": ("child", "boy", "girl", "kid", "lady", "guy", "adult", "pedestrian", "human being"),
    "boat": ("vessel", "yacht", "sailing boat"),
    "bird": ("fowl",),
    "cat": ("feline", "kitty"),
    "dog": ("hound", "canine", "pup"),
    "cup": ("teacup",),
    "bicycle": ("cycle", "pushbike"),
    "train": ("railway", "railroad train"),
    "plane": ("aeroplane", "jet"),
    "rocket": ("spacecraft", "missile"),
    "chair": ("stool",),
    "ball": ("sphere",),
    "clock": ("watch",),
    "sign": ("road sign", "street sign"),
    "table": ("dining table",),
    "hill": ("mountainside",),
    "water": ("lake water", "sea water"),
    "building": ("high rise", "apartment block"),
    "foliage": ("bush", "shrub"),
    "road": ("tarmac", "highway"),
    "wheel": ("car wheel",),
    "hat": ("headwear",),
    "stem": ("stalk",),
    "sea": ("seascape",),
    "street": ("city street",),
    "forest": ("woodland", "wood"),
    "room": ("interior", "indoor", "indoor scene"),
    "beach": ("coast", "seashore"),
    "stripes": ("striping", "striped pattern"),
    "animals": ("wildlife", "beast"),
    "vehicles": ("automotive", "means of transport"),
    "furniture": ("furnishing",),
    "text": ("written text", "inscription"),
    "outdoors": ("outdoor",),
}

GROUPS: dict[str, tuple[tuple[str, str], ...]] = {
    "stripes": tuple(("pattern", f"{way} stripes") for way in ("horizontal", "vertical", "diagonal")),
    "patterns": tuple(("pattern", name) for name in PATTERNS[1:]),
    "text": tuple(("text", letter) for letter in LETTERS),
    "animals": tuple(("object", name) for name in ("bird", "cat", "dog", "fish", "butterfly")),
    "plants": tuple(("object", name) for name in ("tree", "flower", "mushroom", "cactus", "grass", "foliage", "field")),
    "vehicles": tuple(("object", name) for name in ("car", "bicycle", "train", "tractor", "plane", "rocket", "boat")),
    "furniture": tuple(("object", name) for name in ("chair", "table", "lamp", "clock")),
    "architecture": tuple(("object", name) for name in ("house", "building", "tent")),
    "objects": tuple(("object", name) for name in THINGS),
    "backgrounds": tuple(("object", name) for name in STUFF),
    "land": tuple(("object", name) for name in ("sand", "dune", "ground", "field", "hill", "grass")),
    "outdoors": tuple(("setting", name) for name in SETTINGS if name != "room"),
}  # concepts that take in several names of one kind

GROUP_WORDS: dict[str, tuple[str, ...]] = {
    "stripes": ("striped", "stripe", "lines", "bands", "stripy"),
    "patterns": ("patterned", "textured", "texture", "textures", "pattern"),
    "text": ("words", "letters", "written words", "letter", "word", "writing", "lettering"),
    "animals": ("animal", "creatures"),
    "plants": ("plant", "greenery", "vegetation"),
    "vehicles": ("transport",),
    "furniture": ("furnishings",),
    "architecture": ("structures",),
    "objects": ("objects", "object"),
    "backgrounds": ("background", "backdrop", "scenery"),
    "land": ("terrain",),
    "outdoors": ("outside", "outdoor scenes"),
}

UNCOUNTABLE = {
    "grass",
    "sand",
    "water",
    "snow",
    "foliage",
    "ground",
    "hair",
    "text",
    "speckle",
    "checks",
    "dots",
    "waves",
}
IRREGULAR_PLURALS = {
    "leaf": "leaves",
    "person": "people",
    "fish": "fish",
    "bus": "buses",
    "sky": "sky",
    "moon": "moon",
    "snowman": "snowmen",
    "cactus": "cacti",
}


def get_synonyms(name: str) -> tuple[str, ...]:
    """Return the name and its synonyms.

    >>> get_synonyms("car")
    ('car', 'automobile', 'auto')
    """
    return (name, *SYNONYMS.get(name, ()))


def pluralize(name: str) -> str:
    """
    >>> pluralize("wheel"), pluralize("leaf"), pluralize("grass"), pluralize("body")
    ('wheels', 'leaves', 'grass', 'bodies')
    """
    if name in UNCOUNTABLE or name in PATTERNS:
        return name
    if name in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[name]
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


IRREGULAR_SINGULARS = {
    "leaves": "leaf", "people": "person", "peoples": "person", "clotheses": "clothe", "snowmen": "snowman",
    "cacti": "cactus", "men": "man", "women": "woman", "children": "child", "buses": "bus", "skies": "sky",
    "shelves": "shelf", "mice": "mouse", "feet": "foot", "teeth": "tooth",
}  # fmt: skip


def singularize(word: str) -> str:
    """Return the singular of a noun in the plural; a word without a plural ending as it is.

    >>> [singularize(word) for word in ("wheels", "bodies", "leaves", "grass", "buses", "torches", "men", "cactus")]
    ['wheel', 'body', 'leaf', 'grass', 'bus', 'torch', 'man', 'cactus']
    """
    if word in IRREGULAR_SINGULARS:
        return IRREGULAR_SINGULARS[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def add_article(phrase: str) -> str:
    """
    >>> add_article("orange car"), add_article("house")
    ('an orange car', 'a house')
    """
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
