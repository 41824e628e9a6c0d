"""What each guidance does to a mixture in the plane, drawn: one picture a family, into docs/images.

    python -m benchmarks.mixture [families ...]

The model is exact (`guided_jax.analytic`), so whatever a panel shows is the method's own doing and no network's error. Grey
is the whole mixture, blue the class that is asked for, drawn from the exact law; orange are the samples. About a minute on
two CPU cores.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image

from guided_jax import certificate, guidance, operators, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture
from guided_jax.reverse import ReverseStep

matplotlib.use("Agg")
from matplotlib import pyplot

OUT = Path(__file__).parent.parent / "docs" / "images"
LEVELS, COUNT = schedule.respace(schedule.cosine(1000), 60), 1200
MIXTURE, BAD = certificate.PLANE, certificate.WORSE  # class 0 is asked for
EACH = MIXTURE._replace(labels=None)
RIGHT = MIXTURE._replace(labels=(MIXTURE.means[:, 0] > 0).astype(int))
SEEN, PLACE = jnp.array([1.0, 0.0]), jnp.array([-0.7, 0.0])
C, U = MIXTURE.denoiser(0), MIXTURE.denoiser()

Panel = tuple[
    str, Any, ReverseStep, Callable[[Any], jax.Array]
]  # title, denoiser, step, key -> an exact draw of the target


def conditional(key: Any) -> jax.Array:
    """The class that is asked for."""
    return MIXTURE.sample(key, 0)


def exact(mixture: GaussianMixture, label: int | None = None) -> Callable[[Any], jax.Array]:
    """A draw of another mixture, or of one of its classes."""
    return lambda key: mixture.sample(key, label)


def with_guidance(title: str, denoise: Any, step: ReverseStep | None = None, target: Any = conditional) -> Panel:
    """A panel; what remembers is carried by the step."""
    step = reverse.ddim() if step is None else step
    if isinstance(denoise, guidance.Stateful):
        return title, guidance.first_state(denoise), reverse.with_state(denoise, step), target
    return title, denoise, step, target


def classifier_free() -> list[Panel]:
    """u + s (c - u), and its corrections."""
    cfg = lambda scale: guidance.classifier_free(C, U, scale)  # noqa: E731
    ramp = guidance.cosine_ramp(4.0, 1000, 4.0)
    return [
        with_guidance("conditional (scale 1)", cfg(1.0)),
        with_guidance("classifier-free, 3", cfg(3.0)),
        with_guidance("the same by DDPM", cfg(3.0), reverse.ddpm()),
        with_guidance(
            "interval 0.1 to 0.8", guidance.interval(lambda c: guidance.classifier_free(c, U, 3.0), C, 0.1, 0.8)
        ),
        with_guidance("power-cosine ramp to 4", cfg(ramp)),
        with_guidance("projected (APG), 3", guidance.projected(C, U, 3.0, radius=0.5)),
        with_guidance("CFG++, 0.1", guidance.cfg_plus_plus(C, U, 0.1)),
        with_guidance("CFG-Zero*, 3", guidance.zero_star(C, U, 3.0)),
        with_guidance("autoguidance, 2", guidance.autoguidance(C, BAD.denoiser(0), 2.0)),
        with_guidance("negative condition, 3", guidance.classifier_free(C, MIXTURE.denoiser(1), 3.0)),
    ]


def classifier() -> list[Panel]:
    """score + s grad log p(y | x), and how the gradient is got."""
    noisy = MIXTURE.log_prob(0)
    clean = lambda x_0, level: MIXTURE.log_prob(0)(x_0, schedule.at(LEVELS, 0)._replace(sigma=jnp.float32(0.2)))  # noqa: E731
    logits = lambda x, level: jnp.stack([EACH.log_prob(k)(x, level) for k in range(6)])  # noqa: E731
    two = guidance.from_logits(logits, jnp.array([0, 3]))
    modes = EACH._replace(labels=jnp.array([0, 1, 1, 0, 1, 1]))
    return [
        with_guidance("classifier, 1", guidance.classifier(U, noisy, 1.0)),
        with_guidance("classifier, 3", guidance.classifier(U, noisy, 3.0)),
        with_guidance("algorithm 1, 3", U, reverse.classifier_ddpm(noisy, 3.0)),
        with_guidance("any of two labels of six", guidance.classifier(U, two, 1.0), None, exact(modes, 0)),
        with_guidance("clean classifier, off the shelf", guidance.off_the_shelf(U, clean, 1.0, 1.0)),
        with_guidance("clean classifier, universal", guidance.universal(U, clean, 1.0)),
    ]


def composition() -> list[Panel]:
    """AND and NOT. Every exact law here is a mixture of some of the modes."""
    kept = lambda *modes: exact(EACH._replace(labels=jnp.isin(jnp.arange(6), jnp.array(modes)).astype(int)), 1)  # noqa: E731
    right, both = RIGHT.denoiser(1), guidance.all_of([MIXTURE.log_prob(0), RIGHT.log_prob(0)])
    return [
        with_guidance("class 0", C),
        with_guidance("class 0 AND right half", guidance.compose([C, right], U, [1.0, 1.0]), None, kept(0)),
        with_guidance("class 0 NOT right half", guidance.compose([C, right], U, [1.0, -1.0]), None, kept(2, 4)),
        with_guidance("class 0 AND left half", guidance.classifier(U, both, 1.0), None, kept(2, 4)),
    ]


def thresholds() -> list[Panel]:
    """What a strong scale does outside the range of the data, and what brings it back."""
    strong = guidance.classifier_free(C, U, 8.0)
    return [
        with_guidance("classifier-free, 8", strong),
        with_guidance("clip to 1.5", guidance.clip(strong, -1.5, 1.5)),
        with_guidance("dynamic threshold", guidance.dynamic_threshold(strong, 0.995, 1.5)),
        with_guidance("rescale, 0.7", guidance.rescale(lambda c: guidance.classifier_free(c, U, 8.0), C, 0.7)),
    ]


def measurement() -> list[Panel]:
    """The first coordinate was measured: -0.7, with an error of 0.1."""
    seen = operators.mask(SEEN)

    def posterior(key: Any) -> jax.Array:
        """By weighing many draws with their likelihood."""
        key_draw, key_choose = jax.random.split(key)
        x = jax.vmap(MIXTURE.sample)(jax.random.split(key_draw, 3000))
        return x[jax.random.categorical(key_choose, -jnp.square(x[:, 0] - PLACE[0]) / (2 * 0.1**2))]

    likelihood = guidance.likelihood(seen, PLACE, 0.1)
    return [
        with_guidance("PiGDM", guidance.pigdm(U, seen, PLACE, 0.1, 1.0), None, posterior),
        with_guidance("likelihood of x_0(x_t)", guidance.universal(U, likelihood, 1.0), None, posterior),
        with_guidance("DPS, 0.1", U, reverse.dps(reverse.ddpm(), seen, PLACE, 0.1), posterior),
        with_guidance("RePaint, 1", U, reverse.repaint(reverse.ddpm(), SEEN, PLACE, 1), posterior),
        with_guidance("RePaint, 10", U, reverse.repaint(reverse.ddpm(), SEEN, PLACE, 10), posterior),
    ]


FAMILIES = {f.__name__: f for f in (classifier_free, classifier, composition, thresholds, measurement)}


def samples(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """(COUNT, 2) samples and (COUNT, 2) draws of the exact target."""
    _, denoise, step, target = panel
    keys = sampler.keys(jax.random.key(0), jnp.arange(COUNT))

    def draw(key: Any) -> jax.Array:
        key_noise, key_run = jax.random.split(key)
        x_T = LEVELS.sigma[-1] * jax.random.normal(key_noise, (2,))
        return sampler.sample(key_run, denoise, step, x_T, LEVELS)

    return np.asarray(jax.jit(jax.vmap(draw))(keys)), np.asarray(jax.jit(jax.vmap(target))(keys))


def picture(name: str, panels: list[Panel]) -> Path:
    """One row of panels, or two; a palette of 32 colours keeps the file small."""
    columns = 3 if len(panels) == 6 else min(5, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(2.1 * columns, 2.3 * rows), squeeze=False)
    everything = np.asarray(jax.vmap(MIXTURE.sample)(sampler.keys(jax.random.key(1), jnp.arange(COUNT))))
    for axis, panel in zip(axes.flat, panels, strict=False):
        drawn, wanted = samples(panel)
        for points, colour, size in ((everything, "0.85", 2), (wanted, "#9bbcdc", 2), (drawn, "#d9730d", 1)):
            axis.scatter(*points.T, s=size, c=colour, linewidths=0)
        axis.set(title=panel[0], xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[], yticks=[], aspect="equal")
        axis.title.set_fontsize(8)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    path = OUT / f"mixture-{name.replace('_', '-')}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, bbox_inches="tight", pad_inches=0.05)
    pyplot.close(figure)
    Image.open(path).convert("RGB").quantize(32).save(path, optimize=True)
    return path


def main(names: list[str]) -> None:
    """Draws the families that are named, or all."""
    unknown = set(names) - set(FAMILIES)
    if unknown:
        raise SystemExit(f"no family {', '.join(sorted(unknown))}; choose among {', '.join(FAMILIES)}")
    for name in names or FAMILIES:
        path = picture(name, FAMILIES[name]())
        print(f"{path.relative_to(OUT.parent.parent)}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
