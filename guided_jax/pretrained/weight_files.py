"""Where the weights of a component lie: in one file, or in shards with an index. Source: the layout of diffusers.

unet/config.json
unet/diffusion_pytorch_model.safetensors          of networks; model.safetensors of text encoders
unet/diffusion_pytorch_model.fp16.safetensors     its variant "fp16"
unet/diffusion_pytorch_model.safetensors.index.json   {"weight_map": {name of a tensor: name of a file}}
"""

import json
from pathlib import Path
from typing import Any

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
FORMATS = ("safetensors", "bin")  # the first is preferred


def find_weights(folder: str | Path, variant: str | None = None) -> Path:
    """Return the file of weights of a component's folder, or the index of its shards, for `readers.read_state_dict`.

    .safetensors goes before .bin, and one file before shards. variant: such as "fp16", for files of that name alone.
    FileNotFoundError when there are none, which names the variants that there are.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; is the path right, and the download complete?")
    for name in _names(variant):
        if (folder / name).is_file():
            return folder / name
    wanted = f"weights of variant {variant!r}" if variant else "weights"
    variants = sorted({found for path in folder.iterdir() if (found := _variant(path.name)) is not None})
    there = f"but of {', '.join(v or 'no variant' for v in variants)}" if variants else f"such as {_names(variant)[0]}"
    raise FileNotFoundError(f"{folder} has no {wanted}, {there}")


def _names(variant: str | None) -> list[str]:
    """Return the names that weights may have, the best first."""
    part = f".{variant}" if variant else ""
    return [
        name
        for kind in FORMATS
        for stem in STEMS
        for name in (f"{stem}{part}.{kind}", f"{stem}.{kind}.index{part}.json")
    ]


def _variant(name: str) -> str | None:
    """Return the variant that a file of weights is of, "" for none, or None for another file.

    >>> _variant("model.fp16.safetensors"), _variant("model.bin.index.json"), _variant("config.json")
    ('fp16', '', None)
    """
    stem, *parts = name.split(".")
    if stem not in STEMS or not set(FORMATS) & set(parts):
        return None
    return "".join(part for part in parts if part not in (*FORMATS, "index", "json"))


def is_index(path: Path) -> bool:
    """Return whether a file is the index of shards, by its name."""
    return path.suffix == ".json" and ".index" in path.suffixes


def read_index(index: Path) -> dict[str, Path]:
    """Return {name of a tensor: path of its shard}, of shards that exist and lie beside the index.

    ValueError for another file or for a shard elsewhere, FileNotFoundError naming the shards that are not there.
    """
    try:
        content = json.loads(index.read_bytes())
    except ValueError as error:
        raise ValueError(f"{index} is not an index of shards ({error}); download it again") from None
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not shard_of or not all(isinstance(name, str) for name in shard_of.values()):
        raise ValueError(f"{index} is not an index of shards: its weight_map gives no file for each tensor")
    for name in shard_of.values():
        if name != Path(name).name or name == "..":
            raise ValueError(
                f"{index} names the shard {name!r}, which is not in its folder; nothing is read from there"
            )
    missing = sorted({name for name in shard_of.values() if not (index.parent / name).is_file()})
    if missing:
        raise FileNotFoundError(f"{index} names shards that are not there: {', '.join(missing)}; download them")
    return {tensor: index.parent / name for tensor, name in shard_of.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds, empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file ({error}); download it again.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; download it again.")
    return found
