"""Emoji in four styles with captions, drawn from the icon sets that npm carries; or in one style, from a font of Debian.

Every picture is a concept in a style, "zebra, twemoji style"; a fifth of these pairs is held out.
"""

import base64
import collections
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

SIZES = (32, 64)
HELD_OUT = 0.2  # of the pairs of a style and a concept
SKIN_TONES = {f"1f3f{digit}" for digit in "bcdef"}
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # of the only bitmaps in that font
NPM_SECONDS = 600


class IconSet(NamedTuple):
    """A published icon set: its style as captions name it, where npm has it, what its archive hashes to, its licence."""

    style: str
    package: str
    version: str
    sha512: str  # base64, as npm states it
    licence: str
    author: str

    @property
    def archive(self) -> str:
        """The name of the file that npm pack writes."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


SETS = (
    IconSet(
        "fluent",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
        "Fluent Emoji Flat, Microsoft",
    ),
    IconSet(
        "noto",
        "@iconify-json/noto",
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
        "Noto Emoji, Google",
    ),
    IconSet(
        "twemoji",
        "@iconify-json/twemoji",
        "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
        "Twemoji, Twitter and contributors",
    ),
    IconSet(
        "openmoji",
        "@iconify-json/openmoji",
        "1.2.29",
        "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "CC-BY-SA-4.0",
        "OpenMoji",
    ),
)


class Icon(NamedTuple):
    """A concept in a style: its name in words, the style, the category of the concept, the drawing as SVG."""

    concept: str
    style: str
    category: str
    svg: str

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.style}/{self.concept}"


CATEGORIES = (
    *("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body"),
    *("Smileys & Emotion", "Symbols", "Travel & Places"),
)
FONT_CATEGORIES = ("Emoji",)
FONT_LICENCE = "noto style: Noto Color Emoji, Google, of Debian's fonts-noto-color-emoji, OFL-1.1"


class Config(tfds.core.BuilderConfig):
    """The side of the pictures in pixels, and whether they are drawn from the font."""

    def __init__(self, size: int, font: bool = False):
        super().__init__(name=f"font{size}" if font else str(size), version="1.0.0")
        self.size, self.font = size, font


class Emoji(tfds.core.GeneratorBasedBuilder):
    """Emoji on white, (size, size, 3) uint8, with a caption and the category as the class; the splits train and test.

    Of four icon sets, without skin tones: 7146 pictures of 1987 concepts, 1558 of them in all four styles. A fifth of the
    pairs of a style and a concept is held out, and each concept and each style is in train.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [Config(size, font) for font in (False, True) for size in SIZES]  # noqa: RUF012

    @property
    def archives(self) -> Path:
        """Where archives of the icon sets that were fetched by hand lie."""
        return Path(self._data_dir_root) / "downloads" / "manual"

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        features = {
            # A Tensor feature: the Image feature needs TensorFlow to be written.
            "image": tfds.features.Tensor(shape=(size, size, 3), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=FONT_CATEGORIES if self.builder_config.font else CATEGORIES),
            "caption": tfds.features.Text(),
            "concept": tfds.features.Text(),
            "style": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            license=FONT_LICENCE if self.builder_config.font else "; ".join(licences()),
        )

    def _split_generators(self, dl_manager):
        size = self.builder_config.size
        if self.builder_config.font:
            pictures = list(draw_font(size))
        else:
            pictures = [(icon, draw(icon.svg, size)) for icon in read_icons(self.archives)]
        held = hold_out([icon for icon, _ in pictures])
        rows: dict[str, list[tuple[Icon, np.ndarray]]] = {"train": [], "test": []}
        for icon, picture in pictures:
            rows["test" if icon.key in held else "train"].append((icon, picture))
        return {name: _examples(of_split) for name, of_split in rows.items()}

    def _generate_examples(self):
        raise NotImplementedError  # the splits are generators themselves


def _examples(rows):
    for icon, picture in rows:
        told = {"caption": caption_of(icon.concept, icon.style), "concept": icon.concept, "style": icon.style}
        yield icon.key, {"image": picture, "label": icon.category, **told}


def caption_of(concept: str, style: str) -> str:
    """Return the caption of a concept in a style.

    >>> caption_of("zebra", "twemoji")
    'zebra, twemoji style'
    """
    return f"{concept}, {style} style"


def can_fetch(archives: Path) -> bool:
    """Return whether the icon sets can be had, by npm or as archives that lie there."""
    return has_npm() or all((archives / each.archive).exists() for each in SETS)


def licences() -> list[str]:
    """Return a line for each icon set: its style, its author, where it comes from and its licence."""
    return [f"{each.style} style: {each.author}, {each.package} {each.version}, {each.licence}" for each in SETS]


def hold_out(icons: Sequence[Icon]) -> set[str]:
    """Return the keys of a fifth of the icons, in an order that depends on their keys alone.

    One icon of each concept stays, but for icons of a single style, of which a fifth of the concepts is held out.
    """
    left = collections.Counter(icon.concept for icon in icons)
    stay = int(len({icon.style for icon in icons}) > 1)
    order = sorted(icons, key=lambda icon: hashlib.sha256(icon.key.encode()).digest())
    held: set[str] = set()
    for icon in order:
        if len(held) < round(HELD_OUT * len(icons)) and left[icon.concept] > stay:
            left[icon.concept] -= 1
            held.add(icon.key)
    return held


def read_icons(archives: Path, sets: Sequence[IconSet] = SETS) -> list[Icon]:
    """Return the icons of all sets, in the order of their keys; one category for each concept, that of most of its styles.

    archives: where archives that were fetched by hand lie. OSError where one can neither be found nor fetched, or is not
    what it should be.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = [icon for each in sets for icon in _icons(each, _fetch(each, archives, Path(folder)))]
    of_concept: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for icon in found:
        of_concept[icon.concept][icon.category] += 1
    usual = {concept: min(count, key=lambda name: (-count[name], name)) for concept, count in of_concept.items()}
    return sorted((icon._replace(category=usual[icon.concept]) for icon in found), key=lambda icon: icon.key)


def _fetch(each: IconSet, archives: Path, folder: Path) -> bytes:
    """Return the archive of a set, from `archives` or by npm into `folder`; OSError unless it has the digest."""
    file = archives / each.archive
    if not file.exists():
        _pack(each, archives, folder)
        file = folder / each.archive
    body = file.read_bytes()
    digest = base64.b64encode(hashlib.sha512(body).digest()).decode()
    if digest != each.sha512:
        raise OSError(
            f"{file} is not {each.package} {each.version}: its sha512 is {digest[:12]}..., not {each.sha512[:12]}...; "
            "delete it, or fetch it anew"
        )
    return body


def _pack(each: IconSet, archives: Path, folder: Path) -> None:
    """Fetch an archive by npm; OSError where that cannot be done."""
    if not has_npm():
        raise OSError(
            f"the emoji are fetched by npm, which is not installed; install Node.js, or put {each.archive} and the other "
            f"archives of npm pack into {archives}, or install Debian's fonts-noto-color-emoji for one style"
        )
    line = ["npm", "pack", "--silent", f"{each.package}@{each.version}", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, cwd=folder, check=False, timeout=NPM_SECONDS)
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[0]
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = f"no answer in {NPM_SECONDS} s", True
    if failed:
        raise OSError(f"npm cannot fetch {each.package} {each.version} ({said}); put {each.archive} into {archives}")


def has_npm() -> bool:
    """Return whether npm is installed."""
    return shutil.which("npm") is not None


def _icons(each: IconSet, body: bytes) -> Iterator[Icon]:
    """Yield the icons of an archive without skin tones, outdated names and what is no emoji of Unicode."""
    icons, metadata, chars = (_member(body, name) for name in ("icons.json", "metadata.json", "chars.json"))
    toned = {name for code, name in chars.items() if SKIN_TONES & set(code.split("-"))}
    category = {name: group for group, names in metadata["categories"].items() for name in names}
    for name, icon in icons["icons"].items():
        # OpenMoji has "Food Drink" where the others have "Food & Drink".
        group = category.get(name, "Extras").replace(" & ", " ").replace(" ", " & ", 1)
        if not icon.get("hidden") and name not in toned and group in CATEGORIES:
            yield Icon(name.replace("-", " "), each.style, group, _svg({**icons, **icon}))


def _member(body: bytes, name: str) -> Mapping[str, Any]:
    """Return a JSON file of an archive, which is read without being unpacked."""
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz") as archive:
        file = archive.extractfile(f"package/{name}")
        assert file is not None
        return json.load(file)


def _svg(icon: Mapping[str, Any]) -> str:
    """Return the SVG of an icon of Iconify's format, whose sizes are 16 where it does not say otherwise."""
    left, top, width, height = (
        icon.get(*default) for default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'


def draw(svg: str, size: int) -> np.ndarray:
    """Return a drawing on white, (size, size, 3) uint8."""
    import resvg_py

    sized = svg.replace("<svg ", f'<svg width="{size}" height="{size}" ', 1)
    png = bytes(resvg_py.svg_to_bytes(svg_string=sized, background="white", skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def draw_font(size: int, font: Path = FONT) -> Iterator[tuple[Icon, np.ndarray]]:
    """Yield the emoji of a colour font of one code point each, by their names in Unicode; OSError without the font."""
    face = ImageFont.truetype(str(font), FONT_SIZE)
    missing = _glyph(face, "\U0010ffff", size)
    for code in (*range(0x2190, 0x3300), *range(0x1F000, 0x1FB00)):
        name = unicodedata.name(chr(code), "").lower()
        picture = _glyph(face, chr(code), size) if name and f"{code:x}" not in SKIN_TONES else missing
        if (picture != missing).any():
            yield Icon(name.replace("-", " "), "noto", FONT_CATEGORIES[0], ""), picture


def _glyph(face: Any, character: str, size: int) -> np.ndarray:
    side = 136  # of the bitmaps
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).text((side / 2, side / 2), character, font=face, anchor="mm", embedded_color=True)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
