"""Every guidance, one row each: the table over which the tests of all guidances run.

A row is made from `net` (condition -> denoiser, NULL for none), `log_prob` (label -> log p(label | x_t, level)), a label y,
a scale s and one more knob k, all traced. Shapes are those of a picture of 2 x 1 pixels, so that blurs are rows too.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from guided_jax import guidance, operators
from tests.oracle import MIXTURE

NULL = -1
SHAPE = (2, 1, 1)
PICTURES = MIXTURE._replace(means=MIXTURE.means.reshape(4, *SHAPE))


class Member(NamedTuple):
    """What the tests expect of a row."""

    make: Callable  # (net, log_prob, y, s, k) -> Denoiser or Stateful
    at_0: str | None = None  # its prediction at scale 0: "u" unconditional, "c" conditional, None: another one
    at_1: str | None = None  # likewise at scale 1
    bayes: bool = False  # equals classifier-free guidance at every scale, on the exact oracle
    first: str = "c"  # the denoiser whose variance_fraction is kept
    networks: int = 2  # calls of the network in the compiled program, its backward passes included
    classifiers: int = 0  # calls of the classifier, its backward passes included
    conditionals: int = 0  # conditional branches in the compiled program
    knob: float = 0.0  # the knob for which the row holds


def measurement(y):
    """Return (operator, y) of a label: the first pixel is measured, as y - 1/2."""
    observed = jnp.array([1.0, 0.0]).reshape(SHAPE)
    return operators.mask(observed), observed * (y - 0.5)


def towards(y):
    """Return a criterion of clean examples."""
    return lambda x_0, level: -jnp.sum(jnp.square(x_0 - (y - 0.5)))


INVERSES = (lambda image: image / 2, lambda x_0: 2 * x_0)  # an encoder and its decoder


def random_label(key):
    return jax.random.randint(key, (), 0, 2)


def classifier_free(net, y, s):
    return guidance.classifier_free(net(y), net(NULL), s)


MEMBERS = {
    "classifier": Member(
        lambda net, p, y, s, k: guidance.classifier(net(NULL), p(y), s), "u", "c", True, "u", networks=1, classifiers=2
    ),
    "classifier on a conditional": Member(
        lambda net, p, y, s, k: guidance.classifier(net(y), p(y), s - 1), "u", "c", True, networks=1, classifiers=2
    ),
    "classifier, all of two": Member(
        lambda net, p, y, s, k: guidance.classifier(net(NULL), guidance.all_of([p(y), p(1 - y)], [1.0, k]), s),
        *("u", "c", True, "u"),
        networks=1,
        classifiers=3,  # one forward for both labels
    ),
    "classifier, any of one": Member(
        lambda net, p, y, s, k: guidance.classifier(net(NULL), guidance.any_of([p(y)]), s),
        *("u", "c", True, "u"),
        networks=1,
        classifiers=2,
    ),
    "classifier from logits": Member(
        lambda net, p, y, s, k: guidance.classifier(
            net(NULL),
            guidance.from_logits(lambda x, level: jnp.stack([p(0)(x, level), p(1)(x, level)]), y, 1 + k, 1),
            s,
        ),
        *("u", "c", True, "u"),
        networks=1,
        classifiers=3,
    ),
    "off the shelf": Member(
        lambda net, p, y, s, k: guidance.off_the_shelf(net(NULL), towards(y), s, 0.5 + k),
        "u",
        None,
        first="u",
        networks=1,
    ),
    "universal": Member(
        lambda net, p, y, s, k: guidance.universal(net(NULL), towards(y), s), "u", None, first="u", networks=2
    ),
    "pigdm": Member(
        lambda net, p, y, s, k: guidance.pigdm(net(NULL), *measurement(y), noise_std=k, scale=s),
        "u",
        None,
        first="u",
        networks=2,
    ),
    "mmps": Member(
        lambda net, p, y, s, k: guidance.mmps(net(NULL), *measurement(y), k, 1 + jnp.int32(5 * k), s),
        "u",
        None,
        first="u",
        networks=2,  # the backward pass is in a loop
    ),
    "classifier-free": Member(lambda net, p, y, s, k: classifier_free(net, y, s), "u", "c", True),
    "classifier-free, fused": Member(
        lambda net, p, y, s, k: guidance.batched(
            net, jnp.stack([y, NULL]), lambda c, u: guidance.classifier_free(c, u, s)
        ),
        *("u", "c", True),
        networks=1,
    ),
    "classifier-free, looped": Member(
        lambda net, p, y, s, k: guidance.batched(
            net, jnp.stack([y, NULL]), lambda c, u: guidance.classifier_free(c, u, s), loop=True
        ),
        *("u", "c", True),
        networks=1,
    ),
    "classifier-free, by level": Member(
        lambda net, p, y, s, k: classifier_free(net, y, lambda level: s + k * level.sigma), "u", "c", True
    ),
    "linear ramp": Member(lambda net, p, y, s, k: classifier_free(net, y, guidance.linear_ramp(s, 1000)), None, "c"),
    "cosine ramp": Member(
        lambda net, p, y, s, k: classifier_free(net, y, guidance.cosine_ramp(s, 1000, 1 + k)), None, "c"
    ),
    "composition of one": Member(lambda net, p, y, s, k: guidance.compose([net(y)], net(NULL), [s]), "u", "c", True),
    "composition of two": Member(
        lambda net, p, y, s, k: guidance.compose([net(y), net(1 - y)], net(NULL), [s, k]), "u", "c", True, networks=3
    ),
    "push": Member(
        lambda net, p, y, s, k: guidance.call_once(lambda u: guidance.push(u, net(y), u, s), net(NULL)),
        "u",
        "c",
        True,
        "u",
    ),
    "autoguidance": Member(lambda net, p, y, s, k: guidance.autoguidance(net(y), net(NULL), s), "u", "c", True),
    "self-attention": Member(lambda net, p, y, s, k: guidance.self_attention(net(y), s, 1.0 + k), None, "c"),
    "annealed": Member(
        lambda net, p, y, s, k: guidance.classifier_free(
            guidance.annealed(
                lambda v: net((v[0] > v[1]).astype(jnp.int32)),
                jnp.stack([y, 1 - y]) + 0.0,
                *(jax.random.key(0), 1000.0, 1.0, 1.5 - k, 2.0),
            ),
            net(NULL),
            s,
        ),
        *("u", "c", True),
    ),
    "independent": Member(
        lambda net, p, y, s, k: guidance.independent(net, y, random_label, jax.random.key(0), s), None, "c"
    ),
    "independent of a null": Member(
        lambda net, p, y, s, k: guidance.independent(net, y, lambda key: NULL, jax.random.key(0), s), "u", "c", True
    ),
    "interval": Member(
        lambda net, p, y, s, k: guidance.interval(
            lambda c: guidance.classifier_free(c, net(NULL), s), net(y), 0.0, jnp.exp(50 - 100 * k)
        ),
        *("u", "c", True),
        conditionals=1,
    ),
    "interval of a classifier": Member(
        lambda net, p, y, s, k: guidance.interval(lambda d: guidance.classifier(d, p(y), s), net(NULL), 0.0, 1e9 + k),
        *("u", "c", True, "u"),
        networks=1,
        classifiers=2,
        conditionals=1,
    ),
    "channels": Member(
        lambda net, p, y, s, k: guidance.channels(lambda c: guidance.classifier_free(c, net(NULL), s), net(y), 1),
        *("u", "c", True),
    ),
    "rescale": Member(
        lambda net, p, y, s, k: guidance.rescale(lambda c: guidance.classifier_free(c, net(NULL), s), net(y), k),
        "u",
        "c",
        True,
    ),
    "rescale of x_0": Member(
        lambda net, p, y, s, k: guidance.rescale(lambda c: guidance.classifier_free(c, net(NULL), s), net(y), k, "x_0"),
        None,
        "c",
        knob=0.7,
    ),
    "projected": Member(
        lambda net, p, y, s, k: guidance.projected(net(y), net(NULL), s, 1 - k, -k, 99 * (1 - k)), "u", "c", True
    ),
    "projected, clipped": Member(
        lambda net, p, y, s, k: guidance.lift(
            guidance.clip, guidance.projected(net(y), net(NULL), s, 0.0, -k, 1.0 + k)
        ),
        knob=0.5,
    ),
    "adaptive": Member(
        lambda net, p, y, s, k: guidance.adaptive(net(y), net(NULL), s, 1 - k), "u", "c", True, conditionals=1
    ),
    "reused": Member(
        lambda net, p, y, s, k: guidance.reused(net(y), net(NULL), s + 0 * k), "u", "c", True, conditionals=1
    ),
    "distilled": Member(
        lambda net, p, y, s, k: guidance.distilled(
            lambda w: classifier_free(net, y, w), guidance.limited(s, k - 99, 1e9)
        ),
        *("u", "c", True),
    ),
    "internal": Member(
        lambda net, p, y, s, k: guidance.internal(lambda x, level: (net(y)(x, level), net(NULL)(x, level)), s + 0 * k),
        *("u", "c", True),
    ),
    "CFG++": Member(lambda net, p, y, s, k: guidance.cfg_plus_plus(net(y), net(NULL), s), "u", None),
    "CFG-Zero*": Member(lambda net, p, y, s, k: guidance.zero_star(net(y), net(NULL), s, 1e9 * (1 - k)), None, "c"),
    "frequency-decoupled": Member(
        lambda net, p, y, s, k: guidance.frequency_decoupled(net(y), net(NULL), [s, s + k, s - k]), "u", "c", True
    ),
    "tangential": Member(lambda net, p, y, s, k: guidance.tangential(net(y), net(NULL), s), None, "c"),
    "magnitude-aware": Member(
        lambda net, p, y, s, k: guidance.magnitude_aware(net(y), net(NULL), s, 5 * k), "u", "c", True
    ),
    "paste": Member(
        lambda net, p, y, s, k: guidance.paste(
            classifier_free(net, y, s), k * measurement(1)[0].forward(jnp.ones(SHAPE)), measurement(y)[1], *INVERSES
        ),
        *("u", "c", True),
    ),
    "clip": Member(lambda net, p, y, s, k: guidance.clip(classifier_free(net, y, s), k - 99, 99 - k), "u", "c", True),
    "dynamic threshold": Member(
        lambda net, p, y, s, k: guidance.dynamic_threshold(classifier_free(net, y, s), 1 - k, 99.0), "u", "c", True
    ),
}


def as_denoiser(made):
    """Return the denoiser of a row; of a stateful one, that of the first step."""
    return guidance.first_state(made) if isinstance(made, guidance.Stateful) else made


def exact_net(view=lambda denoise: denoise):
    """condition -> the denoiser of the mixture, with variance_fraction 0.75 for NULL and 0.25 for a label."""

    def net(y):
        def denoise(x_t, level):
            if isinstance(y, int):  # NULL: half the work
                chosen = view(PICTURES.denoiser(None if y == NULL else y))(x_t, level)
            else:
                each = [view(PICTURES.denoiser(label))(x_t, level) for label in (None, jnp.maximum(y, 0))]
                chosen = jax.tree.map(lambda *views: jnp.where(y == NULL, *views), *each)
            return chosen._replace(variance_fraction=jnp.full(SHAPE, jnp.where(jnp.asarray(y) == NULL, 0.75, 0.25)))

        return denoise

    return net
