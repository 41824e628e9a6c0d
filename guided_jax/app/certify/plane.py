"""The mixture of a certificate as a run, so that `guided-jax certify` draws by what `guided-jax sample` draws by."""

from typing import Any

import jax.numpy as jnp

from guided_jax import schedule
from guided_jax.analytic import GaussianMixture
from guided_jax.app import run as runs
from guided_jax.app.facts import Facts
from guided_jax.certificate import EXTENT, PLANE, WORSE
from guided_jax.model import Model
from guided_jax.schedule import NoiseLevel

CLASSES = 2
SHAPE = (1, 2, 1)  # a picture of two pixels: the left one is the first coordinate


def make_run(levels: NoiseLevel | None = None) -> runs.Run:
    """Return the run: exact denoisers of both classes and of none, the exact noisy classifier, a worse model as --bad.

    levels: that a sampler visits some of; the cosine schedule of 1000 steps by default.
    """
    return _run(PLANE, levels)._replace(bad=_run(WORSE, levels))


def _run(mixture: GaussianMixture, levels: NoiseLevel | None) -> runs.Run:
    mixture = mixture._replace(means=mixture.means.reshape(-1, *SHAPE))
    every = mixture.denoiser()

    def network(params: Any, x_t: Any, level: NoiseLevel, label: Any) -> Any:
        own = mixture.denoiser(jnp.minimum(label, CLASSES - 1))
        return jnp.where(label == CLASSES, every(x_t, level).x_0, own(x_t, level).x_0)

    def classifier(params: Any, x_t: Any, level: NoiseLevel) -> Any:
        return jnp.stack([mixture.log_prob(label)(x_t, level) for label in range(CLASSES)])

    model = Model(
        network,
        schedule.cosine(1000) if levels is None else levels,
        "x_0",
        time=lambda level: level,
        shape=SHAPE,
        null=CLASSES,
    )
    shares = [float(mixture.weights[mixture.labels == label].sum() / mixture.weights.sum()) for label in range(CLASSES)]
    facts = Facts(SHAPE, CLASSES, tuple(shares), kind="arrays", bound=EXTENT)
    given: dict[str, Any] = {"diffusion": {}, "classifier": {}}
    return runs.from_params(model, facts, given, classifier=classifier, bounded=False, data_std=1.0)
