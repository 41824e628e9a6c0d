"""How often each network is asked, for one picture: the loops are run with networks that only count.

A call on a batch counts once for each of its pictures, so the two conditions of classifier-free guidance are two passes
whether they share a call or not, and a branch of a `cond` counts when it is taken.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import naive, ours
from benchmarks.speed.sizes import Size


def counting(size: Size, found: Counter) -> tuple[Callable, Callable]:
    """A U-Net and a classifier of one picture or a batch; each says so when it is asked."""

    def asked(name: str, x: Any, *told: Any) -> None:
        pictures = x.size // (size.side**2 * size.channels)
        jax.debug.callback(lambda *_: found.update({name: pictures}), x, *told)  # a vmap calls it for each example

    def unet(params: Any, x: Any, t: Any, label: Any) -> Any:
        asked("unet", x, label)
        return 0.1 * x

    def classifier(params: Any, x: Any, t: Any) -> Any:
        asked("classifier", x)
        return jnp.stack([x.mean(axis=(-3, -2, -1))] * size.num_classes, -1)

    return unet, classifier


def of_jax(size: Size, job: str, who: str) -> dict[str, float]:
    """{"unet": passes, "classifier": passes} a picture; of the whole loop."""
    found: Counter = Counter()
    if who.startswith("ours"):
        draw = ours.drawing(size, job, ours.way(who), *counting(size, found))
        jax.jit(jax.vmap(draw, (None, 0, 0)))({"unet": 0.0, "classifier": 0.0}, *ours.start(size))
    else:
        naive.sampling(size, job, who, counting(size, found))()
    jax.effects_barrier()
    return {name: count / size.images for name, count in found.items()}


def of_torch(size: Size, job: str) -> dict[str, float]:
    """The same of PyTorch's loop."""
    import torch

    from benchmarks.speed import pytorch

    found: Counter = Counter()

    def unet(x: Any, t: Any, labels: Any) -> Any:
        found.update({"unet": len(x)})
        return 0.1 * x

    def classifier(x: Any, t: Any) -> Any:
        found.update({"classifier": len(x)})
        return torch.stack([x.mean((1, 2, 3))] * size.num_classes, 1)

    x_T, labels = ours.start(size)
    with torch.no_grad():
        pytorch.draw(size, job, unet, classifier, torch.tensor(x_T).permute(0, 3, 1, 2), torch.tensor(np.int64(labels)))
    return {name: count / size.images for name, count in found.items()}
