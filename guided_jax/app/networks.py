"""The networks of a run: Flax modules, made of the settings of an experiment and the facts of its data."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from guided_jax import models, parallel
from guided_jax.app import texts
from guided_jax.app.facts import Facts, count_labels
from guided_jax.app.settings import Diffusion, Experiment
from guided_jax.storage import images

EMBEDDING = 128  # numbers of a picture and of a caption in the CLIP that is trained here


class Told(NamedTuple):
    """The condition of a network that is told the scale of a guidance: what it takes in the place of a label, and that."""

    condition: Any
    scale: Any


class Networks(NamedTuple):
    """The Flax modules of a run, made and not yet initialised; no autoencoder for a model of pixels.

    The classifier of captions is a CLIP of noisy examples.
    """

    diffusion: models.UNet | models.DiT
    classifier: models.Classifier | models.NoisedCLIP
    autoencoder: models.AutoencoderKL | None = None


def make_networks(experiment: Experiment, facts: Facts) -> Networks:
    """Return the modules that the settings and the data ask for; ValueError for data that they cannot work on."""
    autoencoder = experiment.autoencoder.network.make(facts.image_shape[-1]) if experiment.latent else None
    make = _make_transformer if experiment.diffusion.architecture == "dit" else _make_unet
    return Networks(make(experiment, facts), _make_classifier(experiment, facts), autoencoder)


def texts_of(experiment: Experiment, facts: Facts) -> texts.Texts:
    """Return how a run of captions makes of a text what its networks are given."""
    return experiment.data.make_texts(facts.words or ())


def _make_classifier(experiment: Experiment, facts: Facts) -> models.Classifier | models.NoisedCLIP:
    dims = 1 if facts.kind == "signals" else 2
    if facts.labelling == "text":
        return models.NoisedCLIP(experiment.classifier.network.make(EMBEDDING, dims))
    return experiment.classifier.network.make(facts.num_classes, dims)


def _make_unet(experiment: Experiment, facts: Facts) -> models.UNet:
    diffusion = experiment.diffusion
    of_classes = diffusion.conditional and facts.labelling == "class"
    others: dict[str, Any] = {}
    _check_memory(experiment, facts)
    if diffusion.conditional and facts.labelling == "text":
        others = {"text": True, "num_words": texts_of(experiment, facts).num_words}
    elif diffusion.conditional and not of_classes:
        others = {"vector": 2 * facts.num_classes}
    if diffusion.distill_from is not None:
        others["scale_input"] = True
    dims = 1 if facts.kind == "signals" else 2
    classes, null = (facts.num_classes, diffusion.null_label) if of_classes else (None, False)
    channels = _out_channels(diffusion, data_shape(experiment, facts))
    return diffusion.network.make(channels, classes, null, dims, **others)


def _check_memory(experiment: Experiment, facts: Facts) -> None:
    """Raise ValueError for a memory in a model without captions or of latents, or with weight decay, which fades it."""
    diffusion = experiment.diffusion
    if not diffusion.network.memory:
        return
    asked, out = f"--diffusion.network.memory {diffusion.network.memory}", "leave it out"
    if facts.labelling != "text" or not diffusion.conditional:
        told = count_labels(facts) if diffusion.conditional else "no condition"
        raise ValueError(f"{asked} looks pictures up by their captions, and here they have {told}; {out}")
    if experiment.latent:
        raise ValueError(f"{asked} is of a model of pictures, and this is one of latents; {out}")
    if decay := diffusion.optimizer.weight_decay:
        raise ValueError(f"{asked} is not for --diffusion.optimizer.weight-decay {decay:g}, which fades it; give 0")


def _make_transformer(experiment: Experiment, facts: Facts) -> models.DiT:
    diffusion, shape = experiment.diffusion, data_shape(experiment, facts)
    if diffusion.conditional and facts.labelling != "class":
        raise ValueError(
            f"--diffusion.architecture dit takes one class for each picture, and here they have {count_labels(facts)}; "
            "use unet, or --diffusion.no-conditional"
        )
    if any(side % diffusion.transformer.patch_size for side in shape[:2]):
        raise ValueError(
            f"--diffusion.transformer.patch-size is {diffusion.transformer.patch_size}, which does not divide the sides "
            f"of {shape[0]}x{shape[1]}; give another"
        )
    classes, null = (facts.num_classes, diffusion.null_label) if diffusion.conditional else (None, False)
    channels = shape[-1] * (1 + diffusion.self_conditioning)
    return diffusion.transformer.make(shape, channels, _out_channels(diffusion, shape), classes, null)


def _out_channels(diffusion: Diffusion, shape: tuple[int, ...]) -> int:
    return shape[-1] * (1 + diffusion.learned_variance)


def data_shape(experiment: Experiment, facts: Facts) -> tuple[int, int, int]:
    """Return the shape of x, of a picture or of its latent; ValueError for a picture that cannot be halved so often."""
    height, width, channels = facts.image_shape
    if not experiment.latent:
        return height, width, channels
    network = experiment.autoencoder.network
    if height % network.factor or width % network.factor:
        raise ValueError(
            f"--autoencoder.network.block-out-channels has {len(network.block_out_channels)} levels, for which sides have "
            f"to be multiples of {network.factor}, and the pictures are {height}x{width}; give fewer levels, or "
            "--data.image-size"
        )
    return height // network.factor, width // network.factor, network.latent_channels


def with_estimate(diffusion: Diffusion, x: Any, estimate: Any = None) -> Any:
    """Return [x_t, the last x_0] channel by channel for a network with self-conditioning, x_t alone for another."""
    if not diffusion.self_conditioning:
        return x
    return jnp.concatenate([x, jnp.zeros_like(x) if estimate is None else estimate.astype(x.dtype)], axis=-1)


def apply(
    network: Any, params: Any, x: Any, t: Any, label: Any, low_res: Any = None, dropout: dict[str, Any] | None = None
) -> Any:
    """Return the output of a diffusion network; dropout: {"dropout_keys": keys} for one that has dropout in training.

    label: `Told` for a network that is told a scale.
    """
    if isinstance(network, models.DiT):  # neither an upsampler nor with dropout
        return network.apply(params, x, t, label)
    given = (label.condition, low_res, label.scale) if isinstance(label, Told) else (label, low_res)
    return network.apply(params, x, t, *given, **(dropout or {}))


def example(experiment: Experiment, facts: Facts, part: str) -> tuple[Any, ...]:
    """Return what a network is called with beside its params, in a batch of one.

    x_t and t, and for "diffusion" conditions; for "autoencoder" a picture.
    """
    if part == "autoencoder":
        return (jnp.zeros((1, *facts.image_shape)),)
    x, t, diffusion = jnp.zeros((1, *data_shape(experiment, facts))), jnp.zeros(1), experiment.diffusion
    own = texts_of(experiment, facts) if facts.labelling == "text" else None
    if part == "classifier":
        return (x, t) if own is None else (x, t, *texts.states_of(own, jnp.asarray(own.null)[None]))
    label = None
    if diffusion.conditional and own is not None:
        label = jnp.asarray(own.null)[None]
    elif diffusion.conditional:
        label = jnp.zeros(1, jnp.int32) if facts.labelling == "class" else jnp.zeros((1, 2 * facts.num_classes))
    conditions = (label,) if diffusion.architecture == "dit" else (label, _low_res_example(diffusion, x))
    if diffusion.distill_from is not None:
        conditions = (*conditions, jnp.ones(1))
    return with_estimate(diffusion, x), t, *conditions


def _low_res_example(diffusion: Diffusion, x: Any) -> Any:
    return images.shrink(x, diffusion.low_res) if diffusion.low_res else None


def prepare(experiment: Experiment, facts: Facts, networks: Networks, part: str, params: Any) -> Any:
    """Return the params of a network as it computes with them, for a drawing to make once, before its steps.

    params: of a model of latents those of its autoencoder too, which stay as they are.
    """
    if part == "diffusion" and experiment.latent:
        weights = models.prepare_params(networks.diffusion, params["network"], *example(experiment, facts, part))
        return {**params, "network": weights}
    return models.prepare_params(getattr(networks, part), params, *example(experiment, facts, part))


def init(experiment: Experiment, facts: Facts, networks: Networks, part: str, key: Any) -> Any:
    """Return the initial params of a network."""
    return init_network(getattr(networks, part), key, *example(experiment, facts, part))


def init_network(network: nn.Module, key: Any, *example: Any) -> Any:
    """Return network.init(key, *example), compiled once for equal networks and shapes."""
    return _compiled_init(network)(key, *example)


@functools.cache
def _compiled_init(network: nn.Module) -> Any:
    return parallel.jit(network.init)


def settings_of(experiment: Experiment, part: str) -> Any:
    """Return the settings of the network itself."""
    own = getattr(experiment, part)
    return own.transformer if part == "diffusion" and own.architecture == "dit" else own.network


def class_layer(experiment: Experiment, part: str) -> str | None:
    """Return the name, within the params of a network, of the layer whose shape depends on the classes, or on the words.

    None where there is none.
    """
    if experiment.data.text != "none":
        learned = {"diffusion": "text_emb/words", "classifier": "text"}
        return f"params/{learned[part]}" if experiment.data.text == "words" and part in learned else None
    heads = {"attention": "out_2/c_proj", "adaptive": "out_3", "spatial": "out_2", "spatial_v2": "out_3"}
    embeddings = {"unet": "label_emb", "dit": "y_embedder"}
    layers = {
        "autoencoder": None,
        "diffusion": embeddings[experiment.diffusion.architecture],
        "classifier": heads[experiment.classifier.network.pool],
    }
    return f"params/{layers[part]}" if layers[part] else None
