"""The references' own numbers of DiT and SiT: weights of every layout imported, outputs and gradients met."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.pretrained import dit
from tests.latent_golden import error, nhwc, read

FILES = ("dit_eps_probe", "dit_fixed_sigma_patch4", "dit_learned_sigma")
GUIDED = 3  # channels that the original guides


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def output_and_vjp(module):
    """Return the compiled (params, x, t, label, w) -> (output, gradient of its product with w), the batch as it comes."""

    @jax.jit
    def run(params, x, t, label, w):
        output, pull = jax.vjp(lambda x: module.apply(params, x, t, label), x)
        return output, pull(w)[0]

    return run


def inputs(arrays):
    return nhwc(arrays["x"]), jnp.asarray(arrays["t"]), jnp.asarray(arrays["y"], int), nhwc(arrays["vjp_w"])


def guided(conditional, unconditional, scale):
    """[both halves] of the original's guidance: on the first channels alone, each half keeps its others."""
    first = unconditional + scale * (conditional - unconditional)
    keep = jnp.arange(conditional.shape[-1]) >= GUIDED
    return jnp.concatenate([jnp.where(keep, half, first) for half in (conditional, unconditional)])


# --- the numbers of the references -----------------------------------------------------------------------------------


@pytest.mark.parametrize("like", ["original", "diffusers"])
@pytest.mark.parametrize("name", FILES)
def test_dit(name, like):
    """Both configurations describe one network and both layouts hold the same weights, so that one call is enough."""
    meta, arrays, groups = read(name)
    module, params = dit.load(meta["config"], groups["sd"], like)
    other, same = dit.load(meta["original_config"], groups["sd_original"], like)
    assert module == other
    jax.tree.map(np.testing.assert_array_equal, params, same)
    x, t, label, w = inputs(arrays)
    run = output_and_vjp(module)
    output, gradient = run(params, x, t, label, w)
    assert error(output, arrays[f"out_{like}"]) < 2e-4
    assert error(gradient, arrays[f"vjp_x_{like}"]) < 5e-4
    if like == "original":
        null = jnp.full_like(label, module.num_classes)
        unconditional, _ = run(params, x, t, null, w)
        assert error(guided(output, unconditional, meta["cfg_scale"]), arrays["out_original_cfg"]) < 2e-4


def test_sit():
    meta, arrays, groups = read("sit_learned_sigma")
    config = meta["config"]
    module, params = dit.load(config, groups["sd"])
    assert module.out_channels == 2 * config["in_channels"]
    assert not module.drop_variance
    module, params = dit.load(config | {"_class_name": "SiT"}, groups["sd"])
    x, t, label, w = inputs(arrays)
    run = output_and_vjp(module)
    velocity, gradient = run(params, x, t, label, w)
    assert error(velocity, arrays["out"]) < 2e-4
    assert error(gradient, arrays["vjp_x"]) < 5e-4
    unconditional, _ = run(params, x, t, jnp.full_like(label, config["num_classes"]), w)
    assert error(guided(velocity, unconditional, meta["cfg_scale"]), arrays["out_cfg"]) < 2e-4
    steps = len(arrays["ode/samples"])
    for i, sample in enumerate(arrays["ode/samples"]):  # data at t = 1
        x = x + run(params, x, jnp.full_like(t, i / steps), label, w)[0] / steps
        assert error(x, sample) < 2e-4
