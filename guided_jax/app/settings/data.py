"""The data of an experiment."""

import dataclasses
import re
from pathlib import Path
from typing import Literal

from guided_jax import data
from guided_jax.app import texts
from guided_jax.app.translate import translate_errors

NO_DATA = "none"  # the name of the data of a run that has none
CHANNELS = {"as-is": None, "grey": 1, "grey-alpha": 2, "rgb": 3, "rgba": 4}
# Phrase of the library's messages -> what the command calls it.
OPTIONS = {
    "labelled=False": "--data.no-labelled",
    "corrupt='skip'": "--data.corrupt skip",
    "image_size or channels": "--data.image-size or --data.channels rgb",
    "leave out image_size, crop and channels": "leave out --data.image-size, --data.crop and --data.channels",
    "image_size is": "--data.image-size is",
    "give image_size": "give --data.image-size",
    "data_dir": "--data.dir",
    "signals=True": "--data.signals",
    "without held-out data": "without held-out data (--diffusion.eval-every 0 --classifier.eval-every 0)",
}


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the examples come from."""

    name: str = "digits"
    """Data set: digits (scikit-learn's 8x8 scans, embedded), emoji or emoji:64 (with captions), tfds:NAME, folder:PATH,
    npz:PATH or idx:PATH. A converted run has none."""
    dir: Path | None = None
    """Folder of prepared data, and of relative paths; that of TensorFlow Datasets if not given."""
    split: str = "train"
    """The split to train with."""
    held_out: str = "test"
    """The split that is held out."""
    image_size: int | tuple[int, int] | None = None
    """Side in pixels to which pictures are resized, or height and width; their own if not given."""
    crop: Literal["centre", "random", "none"] = "centre"
    """How a picture becomes a square: its centre, a random crop, or resized without a crop."""
    channels: Literal["as-is", "grey", "grey-alpha", "rgb", "rgba"] = "as-is"
    """Channels to which pictures are converted."""
    background: int = 255
    """Grey value, 0 to 255, under transparent pictures that are converted to grey or rgb."""
    flip: bool = False
    """Mirror half of the training images."""
    labelled: bool = True
    """Read the classes; if not, all pictures have one class."""
    corrupt: Literal["refuse", "skip"] = "refuse"
    """What to do with a damaged picture; skip reads all pictures once at the start."""
    text: texts.Encoder = "none"
    """Captions as the condition in the place of classes: words, which the network learns, or minilm, the states of a
    trained text encoder; none: classes."""
    text_length: int = 20
    """Words or tokens of a caption at most."""
    signals: bool = False
    """The floats (N, length) or (N, length, channels) of an npz file are signals: networks work along their length."""

    def make(self, held_out: bool = False) -> data.Source:
        """Return the data to train with, or the held-out data, whose crops are never random."""
        split = self.held_out if held_out else self.split
        crop = "centre" if held_out and self.crop == "random" else self.crop
        picture = self.image_size, crop, CHANNELS[self.channels]
        with translate_errors(OPTIONS):
            found = data.load(
                self.name, split, self.dir, *picture, self.labelled, self.corrupt, self.background, self.signals
            )
        if self.text == "none":
            return found
        whole = dataclasses.replace(self.whole, text="none")
        trained_on = whole.make() if held_out or whole.name != self.name else found
        return texts.label_by(self.make_texts(texts.vocabulary(trained_on.captions or ())), found)

    @property
    def whole(self) -> "Data":
        """The emoji in all styles for those in one, so that a run of all can be fine-tuned on one; else the data itself."""
        return dataclasses.replace(self, name=re.sub("(?<=^emoji)(:.*)/.*", r"\1", self.name))

    def make_texts(self, words: tuple[str, ...]) -> texts.Texts:
        """Return how captions become what the network is given. words: the vocabulary of the training data."""
        return texts.Texts(self.text, self.text_length, words)

    @property
    def place(self) -> Path | None:
        """Return the folder or file that holds the data; None for a set of TensorFlow Datasets and the digits."""
        kind, _, place = self.name.partition(":")
        return None if kind == "tfds" or not place else ((self.dir or Path()) / Path(place).expanduser()).absolute()

    def moved(self, folder: Path) -> "Data":
        """Return the same data where it lies now: by its own name in that folder, or the folder or file itself.

        The name is the last part of an absolute path, or the whole of a relative one.
        """
        if self.place is None:
            return dataclasses.replace(self, dir=folder)
        kind, _, place = self.name.partition(":")
        folder, name = folder.expanduser().absolute(), Path(place).expanduser()
        inside = folder / (name.name if name.is_absolute() else name)
        return dataclasses.replace(self, name=f"{kind}:{inside if inside.exists() else folder}")
