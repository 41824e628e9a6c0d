"""A class-conditional model of pixels, built from the settings of an experiment.

The one place of the application that knows the U-Net, what its null label is and what it is called with. Everything else
works on a `model.Model` and on a `Run`, whose network may be anything.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import denoiser, model, models
from guided_jax.app.facts import Facts
from guided_jax.app.settings import Classifier, Diffusion, Experiment
from guided_jax.model import Model
from guided_jax.schedule import NoiseLevel
from guided_jax.storage import images

Network = Callable[[Any, Any, Any, Any], Any]  # (params, x_t, time, label) -> output, one example


class Networks(NamedTuple):
    """The Flax modules of a run, made and not yet initialised."""

    unet: models.UNet
    classifier: models.Classifier


def make_networks(experiment: Experiment, facts: Facts) -> Networks:
    """Return the modules that the settings and the data ask for."""
    diffusion = experiment.diffusion
    of_classes = diffusion.conditional and facts.labelling == "class"
    vector = 2 * facts.num_classes if diffusion.conditional and not of_classes else None
    channels = facts.image_shape[-1] * (2 if diffusion.learned_variance else 1)
    dims = 1 if facts.kind == "signals" else 2
    classes, null = (facts.num_classes, diffusion.null_label) if of_classes else (None, False)
    unet = diffusion.network.make(channels, classes, null, dims, vector)
    return Networks(unet, experiment.classifier.network.make(facts.num_classes, dims))


def null_label(experiment: Experiment, facts: Facts) -> Any:
    """Return the label that stands for no label, None for a network without one: of numbers, that none is known."""
    if not experiment.diffusion.null_label:
        return None
    return facts.num_classes if facts.labelling == "class" else np.full(facts.num_classes, np.nan, np.float32)


def raw(facts: Facts, label: Any) -> Any:
    """Return the raw condition of a label: of a tuple of labels 1 for each of them and 0 for the others, (K,)."""
    if not isinstance(label, tuple):
        return label
    if facts.labelling == "vector":
        return np.asarray(label, np.float32)
    return np.isin(np.arange(facts.num_classes), label).astype(np.float32)


def make_model(experiment: Experiment, facts: Facts, unet: models.UNet) -> Model:
    """Return the diffusion model of the settings; its raw condition is the label, a class or numbers."""
    diffusion = experiment.diffusion
    made = Model(
        make_network(diffusion, unet),
        experiment.schedule.make(),
        diffusion.parameterization,
        diffusion.learned_variance,
        make_time(experiment),
        shape=facts.image_shape,
        null=null_label(experiment, facts),
    )
    return made if unet.vector is None else made._replace(condition=model.known_values)


def make_time(experiment: Experiment) -> Callable[[NoiseLevel], Any]:
    """Return level -> what the networks of an experiment take as their time, as `Model.time`.

    It is t - 1, the number of the noisy step counted from 0, of a flow network too: the embedding of the U-Net was made
    for numbers up to 1000. It is the level itself where what goes into the U-Net or comes out of it is scaled by the
    level: see `scale_input` and `scale_output`.
    """
    scaled = experiment.schedule.exploding or experiment.diffusion.parameterization == "score"
    return _whole_level if scaled else denoiser.network_time


def _whole_level(level: NoiseLevel) -> NoiseLevel:
    return level


def scale_input(x: Any, time: Any) -> tuple[Any, Any]:
    """(x / sqrt(alpha^2 + sigma^2), t - 1) where the time is a level, else (x, time).

    So a network sees numbers of size 1 where a VE schedule makes x_t as large as sigma.
    """
    if not isinstance(time, NoiseLevel):
        return x, time
    return x / _like(jnp.hypot(time.alpha, time.sigma), x), denoiser.network_time(time)


def scale_output(diffusion: Diffusion, output: Any, time: Any) -> Any:
    """score = output / sigma of a U-Net whose numbers are of size 1; the output itself for any other parameterization.

    The score is as large as 1 / sigma, too much for a network; its error times sigma is what `losses.denoising` squares.
    """
    if diffusion.parameterization != "score":
        return output
    score, *variance = jnp.split(output, 1 + diffusion.learned_variance, axis=-1)
    return jnp.concatenate([score / _like(time.sigma, output), *variance], axis=-1)


def _like(column: Any, x: Any) -> Any:
    """Return a number of each example, (*batch,), with as many axes as x has."""
    return jnp.reshape(column, jnp.shape(column) + (1,) * (x.ndim - jnp.ndim(column)))


def make_network(
    diffusion: Diffusion, unet: models.UNet, fields: Any = None, low_res: Any = None, estimate: Any = None
) -> Network:
    """Return (params, x_t, time, label) -> output of the U-Net.

    fields: those of its module that are changed. low_res: the picture that an upsampler starts from.
    estimate: the last predicted x_0, for a network with self-conditioning; None stands for zeros, as at the first step.
    """
    module = unet.clone(**fields) if fields else unet

    def network(params: Any, x: Any, t: Any, label: Any) -> Any:
        given = label if diffusion.conditional else None
        x, step = scale_input(x, t)
        return scale_output(
            diffusion, module.apply(params, with_estimate(diffusion, x, estimate), step, given, low_res), t
        )

    return network


def make_attention(diffusion: Diffusion, unet: models.UNet) -> Network:
    """Return (params, x, time, label, low_res, estimate) -> the attention to each pixel of x, as `Run.attention`."""

    def attention(params: Any, x: Any, t: Any, label: Any, low_res: Any = None, estimate: Any = None) -> Any:
        given = label if diffusion.conditional else None
        x, step = scale_input(x, t)
        return models.attention_mass(unet, params, with_estimate(diffusion, x, estimate), step, given, low_res=low_res)

    return attention


def with_estimate(diffusion: Diffusion, x: Any, estimate: Any = None) -> Any:
    """Return [x_t, the last x_0] channel by channel for a network with self-conditioning, x_t alone for another."""
    if not diffusion.self_conditioning:
        return x
    return jnp.concatenate([x, jnp.zeros_like(x) if estimate is None else estimate.astype(x.dtype)], axis=-1)


def make_training_network(diffusion: Diffusion, unet: models.UNet, dropout: bool) -> Callable[..., Any]:
    """Return (params, x_t, t, label, low_res, estimate, keys) -> output of a batch; the keys are of its dropout."""
    module = unet.clone(remat=diffusion.remat, remat_keep=diffusion.remat_keep)
    drops = dropout and bool(diffusion.network.dropout)

    def network(params: Any, x: Any, t: Any, label: Any, low_res: Any, estimate: Any, keys: Any) -> Any:
        x, step = scale_input(x, t)
        x = with_estimate(diffusion, x, estimate)
        output = module.apply(params, x, step, label, low_res, dropout_keys=keys if drops else None)
        return scale_output(diffusion, output, t)

    return network


def make_training_classifier(settings: Classifier, classifier: models.Classifier, dropout: bool) -> Callable[..., Any]:
    """Return (params, x_t, t, keys) -> logits of a batch; the keys are of its dropout."""
    module = classifier.clone(remat=settings.remat, remat_keep=settings.remat_keep)
    drops = dropout and bool(settings.network.dropout)
    return lambda params, x, t, keys: module.apply(params, *scale_input(x, t), dropout_keys=keys if drops else None)


def make_logits(experiment: Experiment, classifier: models.Classifier) -> Callable[[Any, Any, NoiseLevel], Any]:
    """Return (params, x_t, level) -> the logits of the noisy classifier."""
    time = make_time(experiment)
    return lambda params, x, level: classifier.apply(params, *scale_input(x, time(level)))


def example(experiment: Experiment, facts: Facts, part: str) -> tuple[Any, ...]:
    """Return what a network is called with beside its params, in a batch of one: x_t, t, and for "diffusion" conditions."""
    x, t, diffusion = jnp.zeros((1, *facts.image_shape)), jnp.zeros(1), experiment.diffusion
    if part == "classifier":
        return x, t
    label = None
    if diffusion.conditional:
        label = jnp.zeros(1, jnp.int32) if facts.labelling == "class" else jnp.zeros((1, 2 * facts.num_classes))
    low_res = images.shrink(x, diffusion.low_res) if diffusion.low_res else None
    return with_estimate(diffusion, x), t, label, low_res


def prepare(experiment: Experiment, facts: Facts, networks: Networks, part: str, params: Any) -> Any:
    """Return the params of a network as it computes with them, for a drawing to make once, before its steps."""
    network = networks.classifier if part == "classifier" else networks.unet
    return models.prepare_params(network, params, *example(experiment, facts, part))


def init(experiment: Experiment, facts: Facts, networks: Networks, part: str, key: Any) -> Any:
    """Return the initial params of a network."""
    network = {"diffusion": networks.unet, "classifier": networks.classifier}[part]
    return jax.jit(network.init)(key, *example(experiment, facts, part))


def class_layer(experiment: Experiment, part: str) -> str:
    """Return the name, within the params of a network, of the layer whose shape depends on the classes."""
    heads = {"attention": "out_2/c_proj", "adaptive": "out_3", "spatial": "out_2", "spatial_v2": "out_3"}
    return f"params/{heads[experiment.classifier.network.pool] if part == 'classifier' else 'label_emb'}"
