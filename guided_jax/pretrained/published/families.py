"""The model of a description: which network it is, what the network takes as its time, and what it predicts.

    params = {"network": variables of the network, "autoencoder": variables of the AutoencoderKL of a latent model,
              "text": variables of each text tower of a text-to-image model}

Sources: [DiT] Peebles & Xie 2212.09748, [SiT] Ma et al. 2401.08740, [REPA] Yu et al. 2410.06940, [EDM2] Karras et al.
2312.02696, [LDM] Rombach et al. 2112.10752.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from guided_jax import schedule
from guided_jax.model import Model
from guided_jax.models import attention_mass, latent, prepare_params
from guided_jax.models.edm2 import EDM2
from guided_jax.pretrained import autoencoder, clip, dit, edm2, stable_diffusion
from guided_jax.pretrained.published import levels as tables
from guided_jax.pretrained.published import text_to_image
from guided_jax.pretrained.published.description import Description
from guided_jax.pretrained.published.text_to_image import make_text_model, make_towers
from guided_jax.schedule import NoiseLevel

FLOW_LEVELS = 1000  # SiT is trained on all t in [0, 1]; a table that is dense enough to be interpolated
SIGMA_MIN, SIGMA_MAX, EDM2_LEVELS = 0.002, 80.0, 1000  # [EDM2] is trained on all sigma, and sampled between these


class Parts(NamedTuple):
    """The Flax modules of a description; autoencoder: None for a model of pixels."""

    network: Any
    autoencoder: Any = None


def make_parts(description: Description, dtype: Any = None) -> Parts:
    """Return the modules, which compute in `dtype`, None for float32; ValueError for a configuration of none."""
    network, latents = FAMILIES[description.family].make_network(description, dtype), description.latents
    return Parts(network, None if latents is None else autoencoder.make_autoencoder(latents.autoencoder, dtype=dtype))


def make_model(
    description: Description, dtype: Any = None, change: Callable[[Any], Any] = lambda network: network
) -> Model:
    """Return the model of a description.

    dtype: of the networks' computation, float32 if None. change: network -> the module in its place, with the same
    parameters, such as one with another attention.
    """
    parts = make_parts(description, dtype)
    model = FAMILIES[description.family].make_model(change(parts.network), description)
    if parts.autoencoder is None:
        return model
    latents = description.latents
    assert latents is not None
    around = (parts.autoencoder, np.asarray(latents.shift), np.asarray(latents.scale), latents.image_range)
    return model._replace(encode=latent.make_encode(*around), decode=latent.make_decode(*around))


def make_attention(description: Description, dtype: Any = None) -> Callable[[PyTree, Array, Any, Any], Array]:
    """Return (params, x, time, condition) -> the attention to each pixel of x in the middle of the network, of mean 1.

    x, time: as `model.network_input` has them. dtype: of the computation, float32 if None.
    """
    module = make_parts(description, dtype).network
    if description.text is not None:
        return text_to_image.make_attention(module)
    return lambda params, x, time, label: attention_mass(module, params["network"], x, time, label)


def import_network(description: Description, state_dict: Mapping[str, np.ndarray], dtype: Any = None) -> PyTree:
    """Return the variables of the network of a description; ValueError for weights that do not fit it."""
    return FAMILIES[description.family].load(description, state_dict, dtype)


def _make_transformer(description: Description, dtype: Any) -> Any:
    network = dit.make_network(_arguments(description), like=description.like, dtype=dtype)
    return network.clone(internal_head=description.network.get("internal_head"))


def _load_transformer(description: Description, state_dict: Mapping[str, np.ndarray], dtype: Any) -> PyTree:
    return dit.load(_arguments(description), state_dict, like=description.like, dtype=dtype)[1]


def _arguments(description: Description) -> dict[str, Any]:
    """Return the arguments of the constructor of a DiT or SiT."""
    return {name: value for name, value in description.network.items() if name != "internal_head"}


def _transformer(module: Any, description: Description) -> Model:
    """Return the model of a DiT, which predicts eps, or of a SiT, which predicts a velocity."""
    null = module.num_classes if module.null_label else None
    common: dict[str, Any] = {"shape": (*_sides(module.input_size), module.in_channels), "null": null}
    if description.family == "dit":
        table = tables.of_scheduler(description.schedule)
        predicted = tables.parameterization_of(description.schedule)
        learned = module.out_channels == 2 * module.in_channels
        return Model(_call(module), table, predicted, learned, **common)
    call = _call(module)
    backwards = description.family == "sit"  # its time counts from the noise, its velocity is x_0 - eps

    def network(params: PyTree, x: Array, time: Array, label: Any) -> Array:
        heads = jnp.split(call(params, x, time, label), 1 + module.both_heads, axis=-1)
        output = jnp.concatenate([each[..., : module.in_channels] for each in heads], axis=-1)
        return -output if backwards else output

    time = _data_share if backwards else _noise_share
    return Model(network, schedule.flow(FLOW_LEVELS), "flow", time=time, **common)


def _edm2(module: Any, description: Description) -> Model:
    """Return the model of [EDM2]: F of EDM's preconditioning. It was trained without dropping labels: no null label."""
    if description.network.get("sigma_data", 0.5) != 0.5:
        raise ValueError(f"sigma_data is {description.network['sigma_data']}; only EDM2's own, 0.5, is supported")
    table = schedule.karras(EDM2_LEVELS, SIGMA_MIN, SIGMA_MAX)
    size, channels = description.network["img_resolution"], description.network["img_channels"]
    return Model(_call(module), table, "edm", shape=(size, size, channels))


class Network(NamedTuple):
    """The functions that the networks of a family have in common.

    make_network: (description, dtype) -> module. load: (description, state_dict, dtype) -> its variables. shapes: module ->
    its variables as shapes. make_model: (module, description) -> `Model`, still without an autoencoder.
    """

    make_network: Callable[[Description, Any], Any]
    load: Callable[[Description, Mapping[str, np.ndarray], Any], PyTree]
    shapes: Callable[[Any], PyTree]
    make_model: Callable[[Any, Description], Model]


FAMILIES: dict[str, Network] = {
    **dict.fromkeys(("dit", "sit", "repa"), Network(_make_transformer, _load_transformer, dit.shapes, _transformer)),
    "edm2": Network(
        lambda description, dtype: edm2.make_network(description.network, dtype=dtype),
        lambda description, state_dict, dtype: edm2.load(description.network, state_dict, dtype=dtype)[1],
        edm2.shapes,
        _edm2,
    ),
    "sd": Network(
        lambda description, dtype: stable_diffusion.make_unet(description.network, dtype=dtype),
        lambda description, state_dict, dtype: stable_diffusion.load_unet(description.network, state_dict, dtype)[1],
        stable_diffusion.shapes,
        make_text_model,
    ),
}


def _call(module: Any) -> Callable[[PyTree, Array, Any, Any], Array]:
    """Return `Model.network` of a module; one without classes ignores the label."""
    classes = _classes_of(module)
    return lambda params, x, time, label: module.apply(params["network"], x, time, label if classes else None)


def _classes_of(module: Any) -> int | None:
    return (module.label_dim if isinstance(module, EDM2) else module.num_classes) or None


def _data_share(level: NoiseLevel) -> Array:
    """alpha = 1 - t, the time of [SiT]: 0 is noise, 1 data."""
    return jnp.asarray(level.alpha)


def _noise_share(level: NoiseLevel) -> Array:
    """sigma = t, the time of [REPA]: 1 is noise, 0 data."""
    return jnp.asarray(level.sigma)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def count_classes(description: Description) -> int | None:
    """Return how many classes the network takes, None for one without."""
    return None if description.text is not None else _classes_of(make_parts(description).network)


def image_shape(description: Description) -> tuple[int, int, int]:
    """Return the shape of the images that the model draws, (height, width, channels); of x where nothing decodes it."""
    height, width, channels = make_model(description).shape
    decoder = make_parts(description).autoencoder
    if decoder is None:
        return height, width, channels
    factor = 2 ** (len(decoder.block_out_channels) - 1)
    return factor * height, factor * width, decoder.out_channels


def param_shapes(description: Description) -> PyTree:
    """Return the parameters of a description as shapes; nothing is allocated."""
    parts = make_parts(description)
    found: dict[str, Any] = {"network": FAMILIES[description.family].shapes(parts.network)}
    if (text := description.text) is not None:
        found["text"] = [clip.shapes(tower) for tower in make_towers(text)]
    return found if parts.autoencoder is None else {**found, "autoencoder": autoencoder.shapes(parts.autoencoder)}


def prepare(description: Description, params: PyTree, dtype: Any = None) -> PyTree:
    """Return the params as the networks compute with them: see `models.prepare_params`. Once, before a loop of steps."""
    module, model = make_parts(description, dtype).network, make_model(description)
    x, zero = jax.ShapeDtypeStruct(model.shape, jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    if description.text is None:
        given: tuple[Any, ...] = (jax.ShapeDtypeStruct((), jnp.int32) if _classes_of(module) else None,)
    else:
        x = jax.ShapeDtypeStruct((*model.shape[:2], module.in_channels), jnp.float32)
        condition = jax.eval_shape(model.condition, params, model.null)
        given = tuple(condition.get(name) for name in ("context", "pooled", "time_ids"))
    return {**params, "network": prepare_params(module, params["network"], x, zero, *given)}


def check_description(description: Description) -> None:
    """Raise ValueError for a description whose networks cannot be made, or do not fit each other."""
    model = make_model(description)
    if description.latents is None:
        return
    channels = description.latents.autoencoder.get("latent_channels", 4)
    if channels != model.shape[-1]:
        raise ValueError(
            f"the autoencoder's latents have {channels} channels, and the network works on {model.shape[-1]}; "
            "give the autoencoder that it was trained with"
        )
