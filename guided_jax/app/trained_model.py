"""The diffusion model of a run: its networks as functions, of pixels or of latents, as the settings of an experiment say.

With `networks` the one place of the application that knows which networks there are, what their null label is and what they
are called with. Everything else works on a `model.Model` and on a `Run`, whose network may be anything.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from guided_jax import denoiser, model, models
from guided_jax.app import latent_space, networks, texts
from guided_jax.app.facts import Facts
from guided_jax.app.networks import Networks, Told, with_estimate
from guided_jax.app.published_model import TextModel
from guided_jax.app.settings import Classifier, Diffusion, Experiment
from guided_jax.model import Model
from guided_jax.pretrained.published import Prompt, States
from guided_jax.schedule import NoiseLevel

Network = Callable[[Any, Any, Any, Any], Any]  # (params, x_t, time, label) -> output, one example


def null_label(experiment: Experiment, facts: Facts) -> Any:
    """Return the label that stands for no label, None for a network without one: of numbers, that none is known."""
    if not experiment.diffusion.null_label:
        return None
    if facts.labelling == "text":
        return networks.texts_of(experiment, facts).null
    return facts.num_classes if facts.labelling == "class" else np.full(facts.num_classes, np.nan, np.float32)


def raw(facts: Facts, label: Any) -> Any:
    """Return the raw condition of a label: of a tuple of labels 1 for each of them and 0 for the others, (K,)."""
    if not isinstance(label, tuple):
        return label
    if facts.labelling == "vector":
        return np.asarray(label, np.float32)
    return np.isin(np.arange(facts.num_classes), label).astype(np.float32)


def make_model(experiment: Experiment, facts: Facts, modules: Networks) -> Model:
    """Return the diffusion model of the settings; its raw condition is the label, a class or numbers."""
    diffusion = experiment.diffusion
    made = Model(
        make_network(diffusion, modules.diffusion),
        experiment.schedule.make(),
        diffusion.parameterization,
        diffusion.learned_variance,
        make_time(experiment),
        shape=networks.data_shape(experiment, facts),
        null=null_label(experiment, facts),
    )
    if diffusion.conditional and facts.labelling == "text":
        made = made._replace(condition=_text_of)
    if diffusion.conditional and facts.labelling in ("labels", "vector"):
        made = made._replace(condition=model.known_values)
    if diffusion.distill_from is not None:
        made = made._replace(condition=functools.partial(_told, made.condition))
    return made if modules.autoencoder is None else latent_space.extend(made, modules.autoencoder)


def _told(condition: Callable[..., Any], params: Any, raw: Any) -> Told:
    """Return the condition at scale 1; a guidance puts another in its place."""
    return Told(condition(params, raw), jnp.float32(1.0))


def _text_of(params: Any, raw: Any) -> Any:
    """Return what the network is given of a text: of a `Prompt` its states."""
    return jnp.asarray(raw.states.context if isinstance(raw, Prompt) else raw)


def make_text(experiment: Experiment, facts: Facts, modules: Networks) -> TextModel | None:
    """Return `Run.text` of a run that was trained on captions; None for any other."""
    if facts.labelling != "text" or not experiment.diffusion.conditional:
        return None
    own = networks.texts_of(experiment, facts)
    classifier = functools.partial(_make_similarities, experiment, own, modules.classifier)
    factor = experiment.autoencoder.network.factor if experiment.latent else 1
    widths = () if own.num_words is not None else (texts.WIDTH,)
    tokenize = functools.partial(_tokenize, own)
    told = {"zero_null": False, "takes_sizes": False, "takes_mask": False}
    return TextModel(tokenize, 1, widths, **told, factor=factor, classifier=classifier)


def make_towers(experiment: Experiment, own: texts.Texts, module: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the towers of the noised CLIP: (params, x_t, level) -> u, and (params, given) -> v of texts, `texts.encode`'s.

    Of one picture or many, and of one text or many; both are of length 1.
    """
    time = make_time(experiment)

    def picture(params: Any, x: Any, level: NoiseLevel) -> Any:
        return module.apply(params, *scale_input(x, time(level)), method="encode_image")

    def text(params: Any, given: Any) -> Any:
        return module.apply(params, *texts.states_of(own, given), method="encode_text")

    return picture, text


def _make_similarities(experiment: Experiment, own: texts.Texts, module: Any, prompts: Prompt) -> Callable[..., Any]:
    """Return (params, x_t, level) -> u . v_i / temperature of every prompt i, by the noised CLIP."""
    picture, text = make_towers(experiment, own, module)

    def logits(params: Any, x: Any, level: NoiseLevel) -> Any:
        v = text(params, prompts.states.context)
        return v @ picture(params, x, level) / module.apply(params, method="temperature")

    return logits


def _tokenize(own: texts.Texts, given: Sequence[str], weighted: bool = False, windows: int = 1) -> Prompt:
    """Return `TextModel.tokenize` of a run that was trained here; words that it was not trained on are noted."""
    if weighted or windows > 1:
        raise ValueError(
            f"this run has no {'weights' if weighted else 'windows'} of words; leave out --weighted, --windows"
        )
    for text in given:
        if own.num_words is not None and text.strip() and not set(texts.words_of(text)) & set(own.words):
            raise ValueError(f"of the prompt {text!r} {texts.unknown_words(own.words, text)[0]}; give other words")
    for note in dict.fromkeys(note for text in given for note in texts.unknown_words(own.words, text)):
        print(f"note: {note}", file=sys.stderr)
    ones = jnp.ones(len(given))
    return Prompt(keep=ones, skip=0 * ones.astype(int), states=States(jnp.asarray(texts.encode(own, given))))


def make_variant(experiment: Experiment, modules: Networks) -> Callable[..., Network]:
    """Return (fields, low_res, estimate) -> the network in the place of that of the model, as `Run.variant`."""

    def variant(*options: Any) -> Network:
        made = make_network(experiment.diffusion, modules.diffusion, *options)
        return made if modules.autoencoder is None else latent_space.of_network(made)

    return variant


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
    """score = output / sigma of a network whose numbers are of size 1; the output itself for any other parameterization.

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
    diffusion: Diffusion, module: Any, fields: Any = None, low_res: Any = None, estimate: Any = None
) -> Network:
    """Return (params, x_t, time, label) -> output of the diffusion network, a Flax module.

    fields: those of the module that are changed. low_res: the picture that an upsampler starts from.
    estimate: the last predicted x_0, for a network with self-conditioning; None stands for zeros, as at the first step.
    """
    module = module.clone(**fields) if fields else module

    def network(params: Any, x: Any, t: Any, label: Any) -> Any:
        given = label if diffusion.conditional else None
        x, step = scale_input(x, t)
        output = networks.apply(module, params, with_estimate(diffusion, x, estimate), step, given, low_res)
        return scale_output(diffusion, output, t)

    return network


def make_attention(experiment: Experiment, modules: Networks) -> Network:
    """Return (params, x, time, label, low_res, estimate) -> the attention to each pixel of x, as `Run.attention`."""
    diffusion = experiment.diffusion

    def attention(params: Any, x: Any, t: Any, label: Any, low_res: Any = None, estimate: Any = None) -> Any:
        own = params if modules.autoencoder is None else params["network"]
        x, step = scale_input(x, t)
        given, more = label if diffusion.conditional else None, {} if low_res is None else {"low_res": low_res}
        return models.attention_mass(modules.diffusion, own, with_estimate(diffusion, x, estimate), step, given, **more)

    return attention


def make_training_network(diffusion: Diffusion, module: Any, dropout: bool) -> Callable[..., Any]:
    """Return (params, x_t, t, label, low_res, estimate, keys) -> outputs of a batch; the keys are of its dropout.

    The outputs are a list: that of the last head, and of a network with an internal head, in training, that head's.
    """
    both = dropout and getattr(module, "internal_head", None) is not None
    module = module.clone(
        remat=diffusion.remat, remat_keep=diffusion.remat_keep, **({"both_heads": True} if both else {})
    )
    drops = dropout and bool(diffusion.network.dropout)

    def network(params: Any, x: Any, t: Any, label: Any, low_res: Any, estimate: Any, keys: Any) -> list[Any]:
        x, step = scale_input(x, t)
        x = with_estimate(diffusion, x, estimate)
        output = networks.apply(module, params, x, step, label, low_res, {"dropout_keys": keys if drops else None})
        return [scale_output(diffusion, each, t) for each in jnp.split(output, 1 + both, axis=-1)]

    return network


def make_training_classifier(settings: Classifier, classifier: Any, dropout: bool) -> Callable[..., Any]:
    """Return (params, x_t, t, keys) -> logits of a batch, of a CLIP its embeddings; the keys are of its dropout."""
    remat: dict[str, Any] = {"remat": settings.remat, "remat_keep": settings.remat_keep}
    drops = dropout and bool(settings.network.dropout)
    if isinstance(classifier, models.NoisedCLIP):
        module = classifier.clone(image=classifier.image.clone(**remat))
        apply = functools.partial(module.apply, method="encode_image")
    else:
        apply = classifier.clone(**remat).apply
    return lambda params, x, t, keys: apply(params, *scale_input(x, t), dropout_keys=keys if drops else None)


def make_logits(experiment: Experiment, classifier: Any) -> Callable[[Any, Any, NoiseLevel], Any]:
    """Return (params, x_t, level) -> the logits of the noisy classifier."""
    time = make_time(experiment)
    return lambda params, x, level: classifier.apply(params, *scale_input(x, time(level)))
