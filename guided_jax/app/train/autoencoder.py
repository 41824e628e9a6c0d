"""The autoencoder of a run: its loss, and grids of pictures with their reconstructions while it trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import data, losses, parallel
from guided_jax.app import preview
from guided_jax.app import run as runs
from guided_jax.app.settings import Autoencoder
from guided_jax.app.train.held_out import Loss
from guided_jax.app.translate import JUDGE, translate_errors
from guided_jax.metrics.judge import load_judge
from guided_jax.models.judge import feature_maps
from guided_jax.models.latent import sample_posterior
from guided_jax.training import loop

PAIRS, COLUMNS = 2, 16  # of a grid: rows of pictures above those of their reconstructions, and their length
FLOOR = 1e-10  # of a mean square, so that a perfect reconstruction has a finite PSNR


def make_loss(run: runs.Run) -> Loss:
    """Return the loss: distance + kl_weight KL + perceptual_weight (distance of a judge's features).

    z is drawn from the posterior of each picture, on held-out data too: the decoder will be given such z. The metrics have
    the mean square of the error in [-1, 1], and as PSNR in decibels.
    """
    settings = run.experiment.autoencoder
    network, perceive = run.networks.autoencoder.clone(remat=settings.remat), make_perceptual(run)

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        image = batch["image"]
        mean, log_variance = network.apply(params, image, method="encode")
        output = network.apply(params, jax.vmap(sample_posterior)(keys, mean, log_variance), method="decode")
        terms = {
            "reconstruction": losses.autoencoding.reconstruction(output, image, settings.distance),
            "kl": losses.autoencoding.kl_divergence(mean, log_variance) / image[0].size,
        }
        each = terms["reconstruction"] + settings.kl_weight * terms["kl"]
        if perceive is not None:
            terms["perceptual"] = perceive(output, image)
            each = each + settings.perceptual_weight * terms["perceptual"]
        terms["mse"] = losses.autoencoding.reconstruction(output, image, "l2")
        terms["psnr"] = 10 * jnp.log10(4 / jnp.maximum(terms["mse"], FLOOR))
        return each.mean(), {name: value.mean() for name, value in terms.items()}

    return loss


def make_perceptual(run: runs.Run) -> Callable[[Any, Any], Any] | None:
    """Return (output, image) -> the distance of their features, (B,); None without a judge. ValueError for another's."""
    settings = run.experiment.autoencoder
    if settings.perceptual_judge is None:
        return None
    with translate_errors(JUDGE):
        judge = load_judge(settings.perceptual_judge)
    if judge.picture_shape != run.facts.image_shape:
        raise ValueError(
            f"--autoencoder.perceptual-judge {settings.perceptual_judge} was trained on pictures of {judge.picture_shape}, "
            f"these are {run.facts.image_shape}; give another"
        )

    def distance(output: Any, image: Any) -> Any:
        maps = (feature_maps(judge.network, judge.params, x) for x in (image, output))
        return losses.autoencoding.perceptual(*maps)

    return distance


def make_hooks(run: runs.Run, out: Path, source: data.Source) -> list[tuple[int, loop.Hook]]:
    """Return the hook that writes autoencoder/reconstructions-STEP.png: pictures, and below each its reconstruction."""
    settings: Autoencoder = run.experiment.autoencoder
    if not settings.reconstruct_every:
        return []
    columns = min(len(source), COLUMNS)
    count = columns * min(len(source) // columns, PAIRS)
    image = data.scale(source.read(np.arange(count))["image"])
    reconstruct = parallel.jit(run.networks.autoencoder.apply)

    def save_grid(done: int, state: Any) -> None:
        output = parallel.to_host(reconstruct(parallel.first_copy(state.ema), image))
        if not parallel.primary():
            return
        path = out / "autoencoder" / f"reconstructions-{done:06d}.png"
        preview.save_grid(path, preview.stored(_in_pairs(image, output, columns), run.facts), run.facts, columns)

    return [(settings.reconstruct_every, save_grid)]


def _in_pairs(image: np.ndarray, output: np.ndarray, columns: int) -> np.ndarray:
    """Return both, one row of one after one row of the other."""
    rows = range(0, len(image), columns)
    return np.concatenate([part[row : row + columns] for row in rows for part in (image, output)])
