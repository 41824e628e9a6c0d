"""What `guided-jax sample --diagnose` writes: a few numbers of each sample at each step, and their curves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax import guidance, schedule
from guided_jax.app.sample import guidances
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method
from guided_jax.denoiser import Denoiser
from guided_jax.storage.files import replacing

TITLES = {
    "guidance": "length of the guidance",
    "score": "length of the unguided score",
    "cosine": "cosine of the two",
    "log_prob": "log p(y | x_t)",
    "clipped": "share of x_0 clipped",
    "ess": "effective number of particles",
}


def observer(
    parts: Parts, request: Method, has_classifier: bool, clip: Callable[[Denoiser], Denoiser] | None
) -> guidance.observe.Observe:
    """Return the observer of {"clipped"}, with "guidance", "score", "cosine" where a prediction is guided, and "log_prob"
    where `has_classifier`.

    The guidance is counted from the unguided model, clipped as the guided one is: what a clip does to both is no guidance.
    Of algorithm 1, which guides the step, the same gradient is shown as algorithm 2 would use it. clip: as of `Recipe`.
    """
    clip = clip or (lambda denoise: denoise)
    observers = [guidance.observe.clipped(-parts.run.bound, parts.run.bound)]
    if guidances.row_of(request).step is None:
        observers.append(guidance.observe.guidance(clip(parts.base)))
    if has_classifier:
        observers.append(guidance.observe.log_prob(parts.log_prob))
    watch = guidance.observe.together(*observers)
    if not guidances.shifts_mean(request):
        return watch
    guided = clip(guidance.classifier(parts.base, parts.log_prob, parts.scale))
    return lambda x_t, prediction, level: watch(x_t, guided(x_t, level), level)


def save(out: Path, observations: Mapping[str, np.ndarray], levels: schedule.NoiseLevel) -> None:
    """Write diagnostics.npz, (samples, steps) beside t and noise = sigma / alpha of the steps, and their picture."""
    t, alpha, sigma = (np.asarray(value)[:0:-1] for value in levels)
    with replacing(out / "diagnostics.npz") as file:
        np.savez(file, **{"t": t, "noise": sigma / alpha, **observations})
    plot(out / "diagnostics.png", observations, t)


def plot(path: Path, observations: Mapping[str, np.ndarray], t: np.ndarray) -> None:
    """Draw a panel for each number against t: the mean over the samples, and the band that holds 80 % of them."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    shown = {name: title for name, title in TITLES.items() if name in observations}
    figure = Figure(figsize=(7, 2.2 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)
    for axes, (name, title) in zip(panels.flat, shown.items(), strict=True):
        _panel(axes, t, observations[name])
        axes.set(title=title, xlim=(t[0], t[-1]), yscale="log" if name == "score" else "linear")
    axes.set(xlabel="t, noise on the left")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _panel(axes: Any, t: np.ndarray, values: np.ndarray) -> None:
    low, high = np.quantile(values, (0.1, 0.9), axis=0)
    axes.fill_between(t, low, high, alpha=0.3, linewidth=0, label="10-90 %")
    axes.plot(t, values.mean(axis=0), label="mean")
    axes.legend(fontsize="x-small")
