"""CLIP's tokens: from text to ids, by the files of a checkpoint, and the weights of `(word:1.3)` beside them.

    tokenizer.json                                           or vocab.json and merges.txt
    special_tokens_map.json, tokenizer_config.json           which tokens begin, end and pad a text

A text becomes its canonical composition (NFC) in lower case, letter by letter, runs of white space become one space, and it
is cut into words, digits and runs of other signs, each of which byte-pair encoding cuts into tokens.

Source: [CLIP] Radford et al. 2103.00020; the rules are those of transformers, which repairs no broken text, where the
original does (ftfy).
"""

import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from guided_jax.pretrained.clip.prompts import parse_weights
from guided_jax.pretrained.tokens import read_backend
from guided_jax.pretrained.weight_files import read_json

LENGTH = 77  # of a text in tokens, with the two that begin and end it
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
VOCABULARY = ("vocab.json", "merges.txt")


class CutPrompt(UserWarning):
    """Warning that a prompt has more tokens than fit, with the text that is left out."""


class WeightedIds(NamedTuple):
    """ids: int32, as a `Tokenizer` returns them. weights: float32 of the same shape, 1 for what no bracket weighs."""

    ids: Int[Array, "*batch length"]
    weights: Float[Array, "*batch length"]


class Tokenizer(NamedTuple):
    """ids = tokenize(text), int32 (77,), or (n, 77) of a list of n texts.

    backend: of the package tokenizers. start, end, pad: the ids that begin, end and fill up a text. length: 77.
    """

    backend: Any
    start: int
    end: int
    pad: int
    length: int = LENGTH

    def __call__(self, text: Any, windows: int | None = 1) -> Int[Array, "*batch length"]:
        """Return the ids of a text, (77,), or of a list of texts, (n, 77).

        windows: how many times 77 tokens a text may have; each window begins and ends like a text of its own, and the tower
        reads each by itself. Of 2 or more the ids are (windows, 77), or (n, windows, 77); None for as many as the longest
        text needs, also if that is one. What does not fit is left out, with a warning that shows it.
        """
        return self._arrays(text, windows, lambda prompt: [(prompt, 1.0)]).ids

    def weighted(self, text: Any, windows: int | None = 1) -> WeightedIds:
        """Return ids and weights of a text or of texts with brackets: see `prompts.parse_weights`. windows: as of a call.

        The tokens of each part of a weight of its own are those of that part alone. `prompts.weigh` applies the weights.
        """
        return self._arrays(text, windows, parse_weights)

    def _arrays(self, text: Any, windows: int | None, parse: Any) -> WeightedIds:
        if windows is not None and windows < 1:
            raise ValueError(f"windows is {windows}; give 1 or more, or None for as many as are needed.")
        texts = [text] if isinstance(text, str) else list(text)
        for each in texts:
            if not isinstance(each, str):
                raise ValueError(f"a prompt is {each!r}; give a text, or a list of texts.")
        found = [self._tokens(parse(each)) for each in texts]
        room = self.length - 2
        number = windows or max([1, *(math.ceil(len(tokens.ids) / room) for tokens in found)])
        columns = []
        for tokens in found:  # not a comprehension, which would count as a caller of the warning
            columns.append(self._fill(tokens, number))
        shape = (len(texts), self.length) if windows == 1 else (len(texts), number, self.length)
        ids = np.array([ids for ids, _ in columns], np.int32).reshape(shape)
        weights = np.array([weights for _, weights in columns], np.float32).reshape(shape)
        single = isinstance(text, str)
        return WeightedIds(*(jnp.asarray(each[0] if single else each) for each in (ids, weights)))

    def _tokens(self, parts: list[tuple[str, float]]) -> "Tokens":
        """Return the tokens of all parts (text, weight), of any number."""
        ids, weights, rests = [], [], []
        for i, (part, weight) in enumerate(parts):
            encoded = self.backend.encode(part, add_special_tokens=False)
            following = "".join(text for text, _ in parts[i + 1 :])
            ids += encoded.ids
            weights += [weight] * len(encoded.ids)
            rests += [part[start:] + following for start, _ in encoded.offsets]
        return Tokens(ids, weights, rests)

    def _fill(self, tokens: "Tokens", windows: int) -> tuple[list[int], list[float]]:
        """Return the ids and weights of so many windows, one after the other."""
        room = self.length - 2
        if len(tokens.ids) > windows * room:
            warnings.warn(
                f"the prompt has {len(tokens.ids)} tokens, of which {windows * room} fit; left out is "
                f"{tokens.rests[windows * room]!r}",
                CutPrompt,
                stacklevel=4,
            )
        ids, weights = [], []
        for start in range(0, windows * room, room):
            own = slice(start, start + room)
            padding = room - len(tokens.ids[own])
            ids += [self.start, *tokens.ids[own], self.end, *[self.pad] * padding]
            weights += [1.0, *tokens.weights[own], 1.0, *[1.0] * padding]
        return ids, weights


class Tokens(NamedTuple):
    """ids, weights: of a text's tokens, without those that begin and end it. rests: the text from each token on."""

    ids: list[int]
    weights: list[float]
    rests: list[str]


def tokenizer(folder: str | Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint's files, in `folder` or in its folder "tokenizer".

    ValueError where there are none, where they are not those of a tokenizer, or name tokens that their vocabulary lacks.
    """
    folder = _find(Path(folder))
    names = _special_tokens(folder)
    if (folder / "tokenizer.json").is_file():
        backend = read_backend(folder / "tokenizer.json")
    else:
        backend = _make_backend(folder, names)
    padding = (backend.padding or {}).get("pad_token", names["eos_token"])
    tokens = (names["bos_token"], names["eos_token"], names["pad_token"] or padding)
    start, end, pad = (_id(backend, folder, token) for token in tokens)
    backend.no_truncation()
    backend.no_padding()
    return Tokenizer(backend, start, end, pad, names["model_max_length"])


def _find(folder: Path) -> Path:
    """Return the folder that has the files, this one or the one within."""
    for each in (folder, folder / "tokenizer"):
        if (each / "tokenizer.json").is_file() or all((each / name).is_file() for name in VOCABULARY):
            return each
    raise ValueError(
        f"{folder} has no tokenizer: neither tokenizer.json nor {' and '.join(VOCABULARY)}; is the download complete?"
    )


def _special_tokens(folder: Path) -> dict[str, Any]:
    """Return the names of the tokens that begin, end and pad a text, and its length; special_tokens_map.json goes first."""
    config, first = (read_json(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json"))
    found: dict[str, Any] = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": None}
    for name in found:
        for said in (config.get(name), first.get(name)):
            content = said.get("content") if isinstance(said, dict) else said
            found[name] = content or found[name]
    length = config.get("model_max_length")  # a number that no text has where nobody said it
    known = isinstance(length, int) and 2 < length < 100_000
    return found | {"model_max_length": length if known else LENGTH}


def _make_backend(folder: Path, names: dict[str, Any]) -> Any:
    """Return the tokenizer of vocab.json and merges.txt, by the rules that tokenizer.json would hold."""
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    end = names["eos_token"]
    try:
        paths = [str(folder / name) for name in VOCABULARY]
        backend = Backend(BPE.from_file(*paths, unk_token=end, end_of_word_suffix="</w>"))
    except Exception as error:  # the package raises this class
        raise ValueError(f"{' and '.join(VOCABULARY)} of {folder} are not a vocabulary ({error}).") from None
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
    stand_ins = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, stand_ins])
    special = {names["bos_token"], end, names["pad_token"]} - {None}  # as they stand, before the text is changed
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in sorted(special)])
    _add_tokens(backend, folder)
    return backend


def _add_tokens(backend: Any, folder: Path) -> None:
    """Add the tokens that were added to the vocabulary, such as those of textual inversion, in the order of their ids."""
    added = read_json(folder / "added_tokens.json")
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        backend.add_tokens([token])
        if backend.token_to_id(token) != number:
            raise ValueError(
                f"added_tokens.json of {folder} gives {token!r} the id {number}, which is not the next one."
            )


def _id(backend: Any, folder: Path, token: str) -> int:
    """Return the id of a token that has to be there."""
    found = backend.token_to_id(token)
    if found is None:
        raise ValueError(
            f"{folder} names the token {token!r}, which its vocabulary lacks; give the files of one tokenizer."
        )
    return found
