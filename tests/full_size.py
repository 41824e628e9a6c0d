"""Published networks at their full size, with random weights: what their tests share."""

import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import guidance, schedule


def random_weights(shapes, key):
    """Small random weights of these shapes, kernels of about the size that keeps activations in range."""
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(key)
    fan = [max(1, int(np.prod(leaf.shape[:-1]))) for leaf in leaves]
    values = [
        jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / f**0.5, leaf.dtype)
        for leaf, f in zip(leaves, fan, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def make_guided_step(denoisers, scale, sampler, levels, decode):
    """Return (weights, key, x, condition) -> (x after one guided step from the noisiest level, its picture).

    denoisers: (weights, condition) -> the conditional and the unconditional denoiser. decode: (weights, x) -> the picture.
    """
    now, then = schedule.at(levels, -1), schedule.at(levels, -2)

    def step(weights, key, x, condition):
        denoise = guidance.classifier_free(*denoisers(weights, condition), scale)
        x_s, _ = sampler.step(key, denoise, x, sampler.init(x), now, then)
        return x_s, decode(weights, x_s)

    return step


def check_guided_step(step, weights, x, condition, name, capsys):
    """Compile and make one step; print its seconds and memory; return the picture, which is finite."""
    (x_s, image), line = run_once(step, (weights, jax.random.key(1), x, condition))
    with capsys.disabled():
        print(f"\n{name}: {line}")
    assert jnp.all(jnp.isfinite(image))
    assert float(jnp.abs(x_s - x).max()) > 1e-4
    return image


def run_once(step, arguments):
    """Return the output of the compiled `step`, and a line with the seconds of compiling and running and the memory."""
    start = time.time()
    compiled = jax.jit(step).lower(*arguments).compile()
    ready = time.time()
    output = jax.block_until_ready(compiled(*arguments))
    done = time.time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return output, f"compiled {ready - start:.0f} s, one step {done - ready:.1f} s, at most {memory:.1f} GiB"
