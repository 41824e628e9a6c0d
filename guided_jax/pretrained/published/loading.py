"""From the files of a published model to its description and its weights; nothing in a file is ever executed."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from guided_jax.model import Model
from guided_jax.pretrained import autoencoder, pickles, readers, weight_files
from guided_jax.pretrained.published import stable_diffusion_file, stable_diffusion_folder
from guided_jax.pretrained.published.description import Description, Latents
from guided_jax.pretrained.published.families import check_description, import_network, make_model
from guided_jax.pretrained.published.files import latents_of, read_json
from guided_jax.pretrained.published.stable_diffusion_configs import ONE

Weights = dict[str, Mapping[str, np.ndarray]]  # "network" and perhaps "autoencoder" -> torch key -> array
TRANSFORMERS = ("Transformer2DModel", "DiTTransformer2DModel")  # the class of a DiT, in old folders and in new ones
HEAD_WIDTHS = {1152: 72}  # of DiT-XL and SiT-XL; the smaller ones have 64
# What a DiT or SiT has, and the number of its axes, from which its sizes are read.
AXES = {
    "x_embedder.proj.weight": 4,
    "pos_embed": 3,
    "y_embedder.embedding_table.weight": 2,
    "blocks.0.mlp.fc1.weight": 2,
    "final_layer.linear.weight": 2,
}
EDM2_MEAN, EDM2_STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)  # of the codes of sd-vae-ft-mse [EDM2]


def load(
    path: str | Path,
    dtype: Any = None,
    *,
    autoencoder: str | Path | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    family: str | None = None,
    like: str = "original",
    variant: str | None = None,
) -> tuple[Model, PyTree]:
    """Return (model, params) of a published checkpoint.

    path: a folder in the layout of diffusers; a .safetensors, .pt, .ckpt or .npz file of a DiT, a SiT or a Stable Diffusion
        in the names of CompVis; or a .pkl of EDM2, which is never executed.
    dtype: of the parameters and of the networks' computation, such as jnp.bfloat16; float32 if None.
    autoencoder: of a single file, the folder or file of its autoencoder. Without it the model draws latents; a file of
        Stable Diffusion has its own, which this one takes the place of.
    config: of a file of a DiT or SiT, the arguments of the network's constructor, where they are not those of a published
        model. Of a file of Stable Diffusion, the folder in the layout of diffusers that has its tokenizers and
        configurations, no weights needed; or, for 1 and XL as published, a folder with the tokenizers alone.
    family: of a single file, "dit", "sit" or "repa", where its name does not tell.
    like: "diffusers" repeats the numbers of that library where they are not those of the authors.
    variant: of a folder, such as "fp16", which of its files of weights; those without a variant if None.
    Raises ValueError for files of another kind, and naming every weight that is missing, surplus or misshapen.
    """
    description, weights = read(path, autoencoder, config, family, like, variant)
    return make_model(description, dtype), import_weights(description, weights, dtype)


def import_weights(description: Description, weights: Weights, dtype: Any = None) -> PyTree:
    """Return the params of a description, read one tensor at a time; ValueError for weights that do not fit it."""
    found: dict[str, Any] = {"network": import_network(description, weights["network"], dtype)}
    if (text := description.text) is not None:
        found["text"] = stable_diffusion_folder.import_towers(text, weights, dtype)
    if (latents := description.latents) is not None:
        found["autoencoder"] = autoencoder.load(latents.autoencoder, weights["autoencoder"], dtype=dtype)[1]
    return found


def read(
    path: str | Path,
    autoencoder: str | Path | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    family: str | None = None,
    like: str = "original",
    variant: str | None = None,
) -> tuple[Description, Weights]:
    """Return (description, weights) of a published checkpoint; arguments and errors as for `load`."""
    path = Path(path)
    if like not in ("original", "diffusers"):
        raise ValueError(f"like is {like!r}; there is original, diffusers")
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if path.is_dir():
        if autoencoder or config or family:
            raise ValueError(
                f"{path} is a folder, which says itself what it holds; leave out the description of a file"
            )
        found = _read_folder(path, like, variant)
    elif variant:
        raise ValueError(f"{path} is a file, which has no variants; leave out {variant!r}")
    elif path.suffix == ".pkl":
        if config or family or like != "original":
            raise ValueError(
                f"{path} is a pickle of EDM2, which says itself what it holds; leave out all but its autoencoder"
            )
        found = _read_edm2(path, autoencoder)
    else:
        found = _read_file(path, autoencoder, config, family, like)
    check_description(found[0])
    return found


def _read_folder(path: Path, like: Any, variant: str | None) -> tuple[Description, Weights]:
    """Return what a folder of diffusers holds: a DiT, its autoencoder and its scheduler."""
    index = read_json(path / "model_index.json", "model_index.json, which a folder of diffusers has")
    if (index.get("unet") or [None, None])[1] == "UNet2DConditionModel":
        return stable_diffusion_folder.read(path, index, variant)
    kind = (index.get("transformer") or [None, None])[1]
    if kind not in TRANSFORMERS:
        raise ValueError(
            f"{path} holds a {index.get('_class_name')}; a DiT or a Stable Diffusion is read from a folder"
        )
    parts = {name: read_json(path / name / "config.json") for name in ("transformer", "vae")}
    scheduler = read_json(path / "scheduler" / "scheduler_config.json")
    names = _class_names(index.get("id2label"), parts["transformer"].get("num_embeds_ada_norm", 1000))
    latents = latents_of(parts["vae"])
    weights = {
        name: readers.read_state_dict(weight_files.find_weights(path / part, variant))
        for name, part in (("network", "transformer"), ("autoencoder", "vae"))
    }
    return Description("dit", parts["transformer"], scheduler, latents, like, names), weights


def _read_file(
    path: Path, autoencoder: str | Path | None, config: Any, family: str | None, like: Any
) -> tuple[Description, Weights]:
    """Return what a file of weights holds: a whole Stable Diffusion, or the network of a DiT or SiT."""
    state = readers.read_state_dict(path)
    if not stable_diffusion_file.is_one(state):
        return _read_transformer(path, state, autoencoder, config, family, like)
    if family or like != "original":
        raise ValueError(f"{path} is a Stable Diffusion, which its names tell; leave out family and like")
    description, weights = stable_diffusion_file.read(path, state, config)
    if autoencoder is not None:
        of_autoencoder, weights["autoencoder"] = _read_autoencoder(Path(autoencoder))
        description = description._replace(latents=latents_of(of_autoencoder))
    return description, weights


def _read_edm2(path: Path, autoencoder: str | Path | None) -> tuple[Description, Weights]:
    found = pickles.read(path)
    weights: Weights = {"network": found["state_dict"]}
    config, latents = found["config"], None
    if autoencoder is not None:
        arguments, weights["autoencoder"] = _read_autoencoder(Path(autoencoder))
        latents = Latents(arguments, *_whitening(found["encoder"]), image_range=(0.0, 1.0))
    return Description("edm2", config, latents=latents), weights


def _whitening(encoder: Mapping[str, Any] | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (shift, scale) of latents: those of the encoder in the file, x = scale z + bias, or else of [EDM2]'s own."""
    if encoder is None or "scale" not in encoder:
        return EDM2_MEAN, tuple(0.5 / std for std in EDM2_STD)
    scale, bias = (np.atleast_1d(np.asarray(encoder[name], np.float64)) for name in ("scale", "bias"))
    return tuple((-bias / scale).tolist()), tuple(scale.tolist())


def _read_transformer(
    path: Path,
    state: Mapping[str, np.ndarray],
    autoencoder: str | Path | None,
    config: Any,
    family: str | None,
    like: Any,
) -> tuple[Description, Weights]:
    """Return the DiT or SiT of a single file; its numbers of layers and channels are those of its tensors."""
    if "pos_embed.proj.weight" in state:
        raise ValueError(f"{path} is a part of a folder of diffusers; give the folder with model_index.json")
    if "x_embedder.proj.weight" not in state:
        raise ValueError(
            f"{path} holds no DiT, SiT or Stable Diffusion: it has no x_embedder.proj.weight, and {_beginning(state)}"
        )
    if config is not None and not isinstance(config, Mapping):
        raise ValueError(f"the config of {path} is the folder {config}; give the arguments of its constructor")
    family = family or _family_of(path, state)
    if like != "original" and family != "dit":
        raise ValueError(f"like is {like!r}, which is for a DiT, and {path} is a {family}; leave it out")
    arguments = dict(config) if config is not None else infer_config(state)
    if any(key.startswith("final_layer_xr.") for key in state):  # the head of internal guidance; blocks count from 1
        arguments["internal_head"] = arguments.get("encoder_depth", 8) - 1
    weights: Weights = {"network": state}
    latents = None
    if autoencoder is not None:
        of_autoencoder, weights["autoencoder"] = _read_autoencoder(Path(autoencoder))
        latents = latents_of(of_autoencoder)
    return Description(family, arguments, {}, latents, like), weights  # type: ignore[arg-type]


def infer_config(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the arguments of the constructor of a DiT or SiT, read off the shapes of its tensors.

    ValueError for a width that no published model has, since the number of heads leaves no trace in the shapes, and for
    tensors that are missing or misshapen.
    """
    lacking = [key for key, axes in AXES.items() if key not in state_dict or np.ndim(state_dict[key]) != axes]
    if lacking:
        raise ValueError(f"the network has no {', '.join(lacking)} of the usual shape; give its config")
    width, channels, patch, _ = np.shape(state_dict["x_embedder.proj.weight"])
    depth = len({found[0] for key in state_dict if (found := re.match(r"(decoder_)?blocks\.\d+\.", key))})
    outputs = np.shape(state_dict["final_layer.linear.weight"])[0] // patch**2
    head = HEAD_WIDTHS.get(width, 64)
    if width % head:
        raise ValueError(f"the network is {width} wide, which no published DiT or SiT is; give its config")
    return {
        "input_size": patch * math.isqrt(np.shape(state_dict["pos_embed"])[1]),
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": depth,
        "num_heads": width // head,
        "mlp_ratio": np.shape(state_dict["blocks.0.mlp.fc1.weight"])[0] / width,
        "num_classes": np.shape(state_dict["y_embedder.embedding_table.weight"])[0] - 1,
        "learn_sigma": outputs == 2 * channels,
    }


def _family_of(path: Path, state_dict: Mapping[str, np.ndarray]) -> str:
    """Return the family of a file of weights; ValueError where nothing tells: DiT and SiT have the same names."""
    if any(key.startswith("projectors.") for key in state_dict):
        return "repa"
    named = [family for family in ("dit", "sit", "repa") if family in path.stem.lower()]
    if len(named) != 1:
        raise ValueError(f"{path} may be a DiT, a SiT or a REPA, whose weights look alike; name its family")
    return named[0]


def _read_autoencoder(path: Path) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """Return (the arguments of its constructor, its weights) of an autoencoder: its folder, one around it, or its file."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if (path / "vae").is_dir():
        path = path / "vae"
    config = (path if path.is_dir() else path.parent) / "config.json"
    state = readers.read_state_dict(weight_files.find_weights(path) if path.is_dir() else path)
    if not any(key.endswith("decoder.conv_in.weight") for key in state):
        raise ValueError(f"{path} holds no autoencoder: it has no decoder.conv_in.weight, and {_beginning(state)}")
    # Single files come without a config; the autoencoder of Stable Diffusion 1 is that of 2, of DiT, SiT and EDM2 too.
    return read_json(config) if path.is_dir() or config.is_file() else {**ONE["vae"]}, state


def _beginning(state_dict: Mapping[str, np.ndarray]) -> str:
    """Return the first names of a file of weights, for a message."""
    return f"begins with {', '.join(list(state_dict)[:3])}"


def _class_names(found: Any, number: int) -> tuple[str, ...] | None:
    """Return the names of the classes of a model_index.json, None where it does not name them all."""
    keys = [str(index) for index in range(number)]
    return tuple(found[key] for key in keys) if isinstance(found, dict) and set(found) == set(keys) else None
