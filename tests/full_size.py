"""Published networks at their full size, with random weights: what their tests share."""

import resource
import time

import jax
import jax.numpy as jnp
import numpy as np


def random_weights(shapes, key):
    """Small random weights of these shapes, kernels of about the size that keeps activations in range."""
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(key)
    fan = [max(1, int(np.prod(leaf.shape[:-1]))) for leaf in leaves]
    values = [
        jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / f**0.5) for leaf, f in zip(leaves, fan, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def check_one_step(step, weights, x, sides, capsys, words):
    """Run `step(weights, key, x, label) -> (x_s, image)` once on a latent x; print the words and what it took.

    sides: height and width of the picture.
    """
    (x_s, image), line = run_once(step, (weights, jax.random.key(1), x, jnp.int32(207)))
    with capsys.disabled():
        print(f"\n{words}: {line}")
    assert image.shape == (*sides, 3)
    assert jnp.all(jnp.isfinite(image))
    assert float(jnp.abs(x_s - x).max()) > 1e-4


def run_once(step, arguments):
    """Return the output of the compiled `step`, and a line with the seconds of compiling and running and the memory."""
    start = time.time()
    compiled = jax.jit(step).lower(*arguments).compile()
    ready = time.time()
    output = jax.block_until_ready(compiled(*arguments))
    done = time.time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return output, f"compiled {ready - start:.0f} s, one step {done - ready:.1f} s, at most {memory:.1f} GiB"
