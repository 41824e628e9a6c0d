"""Ids of texts for BERT and T5, by the tokenizer.json of a checkpoint; CLIP has its own in `pretrained.clip`."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from guided_jax.pretrained.weight_files import read_json


class Tokens(NamedTuple):
    """ids: int32. mask: int32 of the same shape, 1 for the tokens of the text, 0 for those that fill it up."""

    ids: Int[Array, "*batch length"]
    mask: Int[Array, "*batch length"]


class Tokenizer(NamedTuple):
    """tokens = tokenize(text): `Tokens` (length,), or (n, length) of a list of n texts.

    backend: of the package tokenizers, which cuts and fills up the texts.
    """

    backend: Any

    def __call__(self, text: Any) -> Tokens:
        """Return the tokens of a text or of a list of texts; a warning shows what does not fit and is left out."""
        texts = [text] if isinstance(text, str) else list(text)
        for each in texts:
            if not isinstance(each, str):
                raise ValueError(f"a text is {each!r}; give a text, or a list of texts.")
        encoded = self.backend.encode_batch(texts)
        for each, found in zip(texts, encoded, strict=True):
            if found.overflowing:
                rest = each[max(end for _, end in found.offsets) :].strip()
                warnings.warn(
                    f"the text is cut after {sum(found.attention_mask)} tokens; left out is {rest!r}", stacklevel=2
                )
        length = self.backend.padding["length"]
        columns = [[found.ids for found in encoded], [found.attention_mask for found in encoded]]
        arrays = (np.array(column, np.int32).reshape(len(texts), length) for column in columns)
        return Tokens(*(jnp.asarray(each[0] if isinstance(text, str) else each) for each in arrays))


def tokenizer(folder: str | Path, length: int = 256) -> Tokenizer:
    """Return the tokenizer of a folder with tokenizer.json, for texts of `length` tokens, those at the ends included.

    ValueError where there is no such file, or no token to fill up with.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} has no tokenizer.json.")
    backend = read_backend(folder / "tokenizer.json")
    said = read_json(folder / "tokenizer_config.json").get("pad_token") or (backend.padding or {}).get("pad_token")
    pad = said["content"] if isinstance(said, dict) else said
    if pad is None or backend.token_to_id(pad) is None:
        raise ValueError(
            f"the pad_token of {folder} is {pad!r}, which its vocabulary lacks; give the files of one tokenizer."
        )
    backend.enable_truncation(length)
    backend.enable_padding(pad_id=backend.token_to_id(pad), pad_token=pad, length=length)
    return Tokenizer(backend)


def read_backend(path: Path) -> Any:
    """Return the tokenizer of a tokenizer.json, of the package tokenizers."""
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_file(str(path))
    except Exception as error:  # the package raises this class
        raise ValueError(f"{path} is not a tokenizer ({error}); download it again.") from None
