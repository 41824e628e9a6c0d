"""What a published checkpoint is made of, as plain data that JSON holds: enough, with its weights, to build the model."""

import reprlib
from typing import Any, Literal, NamedTuple, get_args

Family = Literal["dit", "sit", "repa", "edm2", "sd"]


class Latents(NamedTuple):
    """The space of a latent model: x = (z - shift) * scale of the code z of an autoencoder.

    autoencoder: the constructor's arguments of its AutoencoderKL. shift, scale: one number, or one for each channel.
    image_range: of the pixels that the autoencoder takes and returns.
    """

    autoencoder: dict[str, Any]
    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    image_range: tuple[float, float] = (-1.0, 1.0)


class Text(NamedTuple):
    """The text towers of a text-to-image model.

    towers: the config.json of each. null: for each the token ids of an empty prompt. is_penultimate: whether the network
    reads the states before the last layer, not normed, and the projected text, as Stable Diffusion XL does; else the states
    after the last one. zero_null: whether no prompt at all stands for zeros instead of an empty prompt.
    """

    towers: tuple[dict[str, Any], ...]
    null: tuple[tuple[int, ...], ...]
    is_penultimate: bool = False
    zero_null: bool = False


class Description(NamedTuple):
    """A published diffusion model.

    family: the network, with its time and what it predicts. network: the arguments of its constructor, and "internal_head",
    the block with a head of its own, of a transformer that has one. schedule: the noise levels, as the config.json of a
    scheduler of diffusers says them; empty for a family that has its own. latents: None for a model of pixels, and for one
    whose autoencoder is not at hand, which then draws latents. like: "diffusers" for the numbers of that library where they
    are not those of the authors. class_names: in the order of their numbers. text: of a text-to-image model.
    """

    family: Family
    network: dict[str, Any]
    schedule: dict[str, Any] = {}  # noqa: RUF012  never changed
    latents: Latents | None = None
    like: Literal["original", "diffusers"] = "original"
    class_names: tuple[str, ...] | None = None
    text: Text | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON holds it."""
        parts = {"latents": self.latents, "text": self.text}
        return self._asdict() | {name: None if part is None else part._asdict() for name, part in parts.items()}


def of_json(saved: Any) -> Description:
    """Return the description that JSON holds; TypeError for what cannot be one, KeyError for a field that is missing."""
    if not isinstance(saved, dict):
        raise TypeError(f"the description is {reprlib.repr(saved)}")
    found = {name: saved[name] for name in Description._fields}
    right = {
        "family": found["family"] in get_args(Family),
        "network": isinstance(found["network"], dict),
        "schedule": isinstance(found["schedule"], dict),
        "latents": found["latents"] is None or _are_latents(found["latents"]),
        "like": found["like"] in ("original", "diffusers"),
        "class_names": found["class_names"] is None or _all(str, found["class_names"]),
        "text": _is_text(found["text"]) if found["family"] == "sd" else found["text"] is None,
    }
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise TypeError(f"{wrong[0]} is {reprlib.repr(found[wrong[0]])}")
    names, latents = found["class_names"], found["latents"]
    found["class_names"] = None if names is None else tuple(names)
    if latents is not None:
        numbers = {name: tuple(latents[name]) for name in ("shift", "scale", "image_range")}
        found["latents"] = Latents(latents["autoencoder"], **numbers)
    if (text := found["text"]) is not None:
        null = tuple(tuple(ids) for ids in text["null"])
        found["text"] = Text(tuple(text["towers"]), null, text["is_penultimate"], text["zero_null"])
    return Description(**found)


def _are_latents(saved: Any) -> bool:
    if not isinstance(saved, dict) or set(saved) != set(Latents._fields) or not isinstance(saved["autoencoder"], dict):
        return False
    numbers = [saved[name] for name in ("shift", "scale", "image_range")]
    return all(_all((int, float), each) for each in numbers) and len(saved["image_range"]) == 2


def _is_text(saved: Any) -> bool:
    if not isinstance(saved, dict) or set(saved) != set(Text._fields) or not _all(dict, saved["towers"]):
        return False
    flags = all(isinstance(saved[name], bool) for name in ("is_penultimate", "zero_null"))
    return flags and _all(list, saved["null"]) and all(_all(int, ids) for ids in saved["null"])


def _all(kind: Any, values: Any) -> bool:
    """Return whether this is a list of at least one value of a type."""
    return isinstance(values, list | tuple) and bool(values) and all(isinstance(each, kind) for each in values)
