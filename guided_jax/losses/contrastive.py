"""The symmetric contrastive loss of pictures and captions: each picks its own among those of the whole batch.

    l_i = -(log p(v_i | u_i) + log p(u_i | v_i)) / 2,   p(v_j | u_i) = softmax_j(u_i . v_j / temperature)

The one loss here in which examples see one another: the others of the batch are what an example is told from, on all
devices. Examples of the same caption are left out of each other's sums, since neither is a wrong answer.

Sources: [CLIP] Radford et al. 2103.00020 figure 3, [GLIDE] Nichol et al. 2112.10741 section 2.4 (on noised pictures).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from guided_jax.denoiser import network_time
from guided_jax.losses.denoising import corrupt
from guided_jax.schedule import NoiseLevel


def symmetric(
    image: Float[Array, "batch d"],
    text: Float[Array, "batch d"],
    caption: Int[Array, " batch"],
    temperature: ArrayLike,
    axis_name: str | None = None,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """(l_i, whether the caption of picture i is the nearest, 0 or 1), for each example ([CLIP] figure 3).

    image, text: u and v, (B, D), of length 1; row i of both is example i.
    caption: (B,) numbers, equal for equal captions, on all devices.
    temperature: above 0, a number or traced value.
    axis_name: of the devices over which the batch is split, inside `jax.pmap` or `jax.shard_map`, such as
        `parallel.replicated.AXIS` in a train step: every device compares its examples with those of all. The mean of the
        devices' gradients is then the gradient of the mean of all l_i. None for one device, and for a batch that `jax.jit`
        divides over devices, which is whole here. Microbatches are compared within each.
    Returns two arrays (B,).

    >>> u = jnp.eye(3)
    >>> loss, right = gj.losses.contrastive.symmetric(u, u, jnp.arange(3), 0.1)
    >>> round(float(loss[0]), 6), right.tolist()
    (9.1e-05, [1.0, 1.0, 1.0])
    """
    images, texts, captions = (_gather(each, axis_name) for each in (image, text, caption))
    own = _positions(len(image), axis_name)
    same = (caption[:, None] == captions[None]) & (own[:, None] != jnp.arange(len(captions))[None])
    by_image, by_text = (
        jnp.where(same, -jnp.inf, here @ all_there.T / temperature)
        for here, all_there in ((image, texts), (text, images))
    )
    loss = -(_of_own(jax.nn.log_softmax(by_image), own) + _of_own(jax.nn.log_softmax(by_text), own)) / 2
    return loss, (jnp.argmax(by_image, axis=1) == own).astype(jnp.float32)


def noised(
    network: Callable[[Array, Array, Array], Array],
    keys: Key[Array, " batch"],
    x_0: Float[Array, "batch *shape"],
    text: Float[Array, "batch d"],
    caption: Int[Array, " batch"],
    temperature: ArrayLike,
    levels: NoiseLevel,
    time: Callable[[NoiseLevel], Array] = network_time,
    axis_name: str | None = None,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """`symmetric` of the embeddings of `corrupt(keys, x_0, levels)`, each picture at a level of its own ([GLIDE]).

    network: (x_t, times, keys) -> u, (B, D), on the batch; the keys are for dropout.
    keys: (B,) JAX keys.
    x_0: (B, *shape), clean.
    text, caption, temperature, axis_name: as for `symmetric`.
    levels: the table.
    time: level -> the network's time.
    Returns two arrays (B,).
    """
    noisy = corrupt(keys, x_0, levels)
    return symmetric(network(noisy.x_t, time(noisy.level), noisy.keys), text, caption, temperature, axis_name)


def _gather(leaf: Array, axis_name: str | None) -> Array:
    """Return the rows of all devices."""
    return leaf if axis_name is None else jax.lax.all_gather(leaf, axis_name, tiled=True)


def _positions(count: int, axis_name: str | None) -> Int[Array, " count"]:
    """Return where the rows of this device are among those of all."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
    return first + jnp.arange(count)


def _of_own(values: Float[Array, "batch all"], own: Int[Array, " batch"]) -> Float[Array, " batch"]:
    return jnp.take_along_axis(values, own[:, None], axis=1)[:, 0]
