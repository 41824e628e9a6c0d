"""Losses on the oracle: a perfect network has the loss that theory says, and learning one approaches it."""

import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from guided_jax import denoiser, forward, losses, reverse, schedule
from guided_jax.prediction import Prediction
from tests.oracle import MIXTURE

LEVELS = schedule.cosine(100)
SAMPLE = jax.jit(jax.vmap(MIXTURE.sample))


def examples(count, seed=0):
    """Keys, and examples drawn from other keys: the same ones would tie x_0 to its noise."""
    keys, others = jax.random.split(jax.random.key(seed), (2, count))
    return keys, SAMPLE(others)


@jax.jit
def corrupted(keys, x_0):
    return losses.corrupt(keys, x_0, LEVELS)


def test_corruption_is_the_forward_process():
    """x_t is made of its own truth, every level 1..T is as likely, eps is standard normal."""
    keys, x_0 = examples(20_000)
    noisy = jax.device_get(corrupted(keys, x_0))
    made = noisy.level.alpha[:, None] * noisy.truth.x_0 + noisy.level.sigma[:, None] * noisy.truth.eps
    np.testing.assert_allclose(noisy.x_t, made, atol=1e-6)
    np.testing.assert_array_equal(noisy.truth.x_0, x_0)
    counts = np.bincount(np.asarray(noisy.level.t, int), minlength=101)
    assert counts[0] == 0
    assert counts[1:].min() > 120
    assert counts[1:].max() < 290
    np.testing.assert_allclose(noisy.truth.eps.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(noisy.truth.eps.std(0), 1, atol=0.03)


@pytest.mark.parametrize("target", losses.TARGETS)
def test_targets_are_what_the_denoiser_reads(target):
    """A network that says the target exactly is, through `from_network`, a denoiser that says the truth exactly."""
    keys, x_0 = examples(64)

    def read(output, x_t, level):
        return denoiser.from_network(lambda x, t: output, target)(x_t, level)

    @jax.jit
    def compute(keys, x_0):
        noisy = losses.corrupt(keys, x_0, LEVELS)
        output = jax.vmap(losses.TARGETS[target])(noisy.truth, noisy.level)
        each = losses.diffusion(lambda x, t, condition, keys: output, keys, x_0, None, LEVELS, target)
        return noisy, each, jax.vmap(read)(output, noisy.x_t, noisy.level)

    noisy, each, found = jax.device_get(compute(keys, x_0))
    np.testing.assert_allclose(each, 0, atol=1e-10)
    alpha, sigma = noisy.level.alpha[:, None], noisy.level.sigma[:, None]
    np.testing.assert_allclose(alpha * (found.x_0 - x_0), 0, atol=1e-5)
    np.testing.assert_allclose(sigma * (found.eps - noisy.truth.eps), 0, atol=1e-5)


ONE = MIXTURE._replace(weights=jnp.ones(1), means=MIXTURE.means[1:2], stds=MIXTURE.stds[1:2], labels=None)
# (d target / d x_0)^2: what the variance of x_0 given x_t is in the loss of each target. Of a score sigma^2 is in the loss.
SHARES = {
    "eps": lambda alpha, sigma: alpha**2 / sigma**2,
    "x_0": lambda alpha, sigma: np.ones_like(alpha),
    "v": lambda alpha, sigma: (alpha**2 + sigma**2) ** 2 / sigma**2,
    "score": lambda alpha, sigma: alpha**2 / sigma**2,
    "flow": lambda alpha, sigma: (alpha + sigma) ** 2 / sigma**2,
}


TABLES = {"VP": LEVELS, "flow": schedule.flow(100), "VE": schedule.karras(100, 0.01, 20.0)}


def test_the_exact_denoiser_of_a_normal_law_has_its_variance_as_loss_and_nothing_has_less():
    """x_0 given x_t has the variance s^2 sigma^2 / (alpha^2 s^2 + sigma^2), and each target its share of that."""
    keys, others = jax.random.split(jax.random.key(0), (2, 8000))

    def loss(noisy, levels, target, factor):
        def network(x_t, level, condition, keys):
            exact = jax.vmap(ONE.denoiser())(x_t, level)
            return factor * jax.vmap(losses.TARGETS[target])(exact, level)

        return losses.denoising(network, noisy, None, levels, target, time=lambda level: level).mean()

    @jax.jit
    def all_of_them(levels):
        noisy = losses.corrupt(keys, jax.vmap(ONE.sample)(others), levels)
        factors = (1.0, 0.9, 1.1)
        found = {target: [loss(noisy, levels, target, factor) for factor in factors] for target in losses.TARGETS}
        return noisy.level, found

    for name, levels in TABLES.items():
        level, found = all_of_them(levels)
        alpha, sigma = (np.asarray(column, np.float64) for column in (level.alpha, level.sigma))
        power = float(ONE.stds[0]) ** 2
        variance = power * sigma**2 / (alpha**2 * power + sigma**2)
        for target, (exact, *scaled) in found.items():
            want = (SHARES[target](alpha, sigma) * variance).mean()
            np.testing.assert_allclose(exact, want, rtol=0.04, err_msg=f"{name} {target}")
            assert exact < min(scaled), (name, target)


def test_the_exact_classifier_has_the_entropy_of_its_posterior():
    keys, others = jax.random.split(jax.random.key(0), (2, 4000))
    labels = jnp.arange(4000) % 2
    x_0 = SAMPLE(others, labels)

    def network(x, t, keys):
        levels = schedule.at(LEVELS, (t + 1).astype(int))
        of = lambda x, *level: jnp.stack([MIXTURE.log_prob(y)(x, schedule.NoiseLevel(*level)) for y in (0, 1)])  # noqa: E731
        return jax.vmap(of)(x, *levels)

    found = jax.jit(lambda keys, x_0: losses.classification(network, keys, x_0, labels, LEVELS))(keys, x_0)
    nll, right = jax.device_get(found)
    probability = np.exp(-nll)
    np.testing.assert_allclose(
        np.mean(right), np.mean(np.where(right == 1, probability, 1 - probability)), atol=0.02
    )  # calibrated
    assert 0.3 < float(nll.mean()) < 0.6
    assert nll.shape == right.shape == (4000,)


def test_unknown_target():
    keys, x_0 = examples(2)
    with pytest.raises(ValueError, match="'noise'"):
        losses.diffusion(lambda x, t, c, k: x, keys, x_0, None, LEVELS, "noise")


def test_conditions_are_dropped_at_the_rate_and_by_the_example():
    keys, _ = examples(5000)
    condition = {"label": jnp.zeros(5000, jnp.int32), "low_res": jnp.ones((5000, 2, 2, 1))}
    null = {"label": jnp.int32(10), "low_res": jnp.float32(-5.0)}
    drop = jax.jit(lambda keys, rate: losses.drop(keys, condition, null, rate), static_argnums=1)
    found = jax.device_get(drop(keys, 0.15))
    gone = found["label"] == 10
    np.testing.assert_allclose(gone.mean(), 0.15, atol=0.02)
    np.testing.assert_array_equal(found["low_res"], np.where(gone[:, None, None, None], -5.0, condition["low_res"]))
    order = np.random.default_rng(1).permutation(5000)
    np.testing.assert_array_equal(drop(keys[order], 0.15)["label"], found["label"][order])
    assert (np.asarray(drop(keys, 0.0)["label"]) == 0).all()
    assert (np.asarray(drop(keys, 1.0)["label"]) == 10).all()


def test_dropping_is_independent_of_the_noise():
    keys, x_0 = examples(5000)
    drop = jax.jit(lambda keys: losses.drop(keys, jnp.zeros(5000, jnp.int32), jnp.int32(1), 0.5))
    gone = np.asarray(drop(keys)) == 1
    noisy = jax.device_get(corrupted(keys, x_0))
    np.testing.assert_allclose(noisy.truth.eps[gone].mean(0), noisy.truth.eps[~gone].mean(0), atol=0.1)
    np.testing.assert_allclose(noisy.level.t[gone].mean(), noisy.level.t[~gone].mean(), atol=3)


class Small(nn.Module):
    """A perceptron that is told x_t, the level and the label (2: none)."""

    @nn.compact
    def __call__(self, x, t, label):
        angle = t[..., None] / 100 * jnp.array([1.0, 2.0, 4.0]).reshape((1,) * jnp.ndim(t) + (3,))
        h = jnp.concatenate([x, jnp.sin(np.pi * angle), jnp.cos(np.pi * angle), jax.nn.one_hot(label, 3)], -1)
        for _ in range(3):
            h = nn.silu(nn.Dense(96)(h))
        return nn.Dense(2)(h)


@pytest.mark.slow
def test_a_tiny_network_approaches_the_oracle():
    """Trained with label dropout, it comes near the exact denoisers of both classes and of no class."""
    net, count = Small(), 512
    params = net.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, 1500))

    def loss(params, key):
        key_label, key_data, key_loss = jax.random.split(key, 3)
        keys = jax.random.split(key_loss, count)
        labels = jax.random.bernoulli(key_label, 0.5, (count,)).astype(jnp.int32)
        x_0 = SAMPLE(jax.random.split(key_data, count), labels)
        condition = losses.drop(keys, labels, jnp.int32(2), 0.3)
        network = lambda x, t, label, keys: net.apply(params, x, t, label)  # noqa: E731
        return losses.diffusion(network, keys, x_0, condition, LEVELS).mean()

    def step(carry, key):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, updates), state), value

    start = (params, optimizer.init(params))
    (params, _), values = jax.jit(lambda start: jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 1500)))(
        start
    )
    assert values[-100:].mean() < 0.8 * values[:100].mean()
    for label, exact in ((0, MIXTURE.denoiser(0)), (1, MIXTURE.denoiser(1)), (2, MIXTURE.denoiser())):
        learned = denoiser.from_network(lambda x, t, label=label: net.apply(params, x, t, jnp.int32(label)))
        for position in (20, 50, 80):
            level = schedule.at(LEVELS, position)
            keys, x_0 = examples(256, seed=position)
            if label < 2:
                x_0 = jax.vmap(lambda key, label=label: MIXTURE.sample(key, label))(keys)
            x_t = level.alpha * x_0 + level.sigma * jax.random.normal(jax.random.key(9), x_0.shape)
            want = jax.vmap(exact, (0, None))(x_t, level).eps
            got = jax.vmap(learned, (0, None))(x_t, level).eps
            other = jax.vmap(MIXTURE.denoiser(1 if label != 1 else 0), (0, None))(x_t, level).eps
            error = float(jnp.sqrt(jnp.mean((got - want) ** 2)))
            assert error < 0.12, (label, position, error)
            assert error < 0.7 * float(jnp.sqrt(jnp.mean((other - want) ** 2))) or position > 60


def test_the_loss_is_the_mean_over_the_elements():
    """Of a network that says nothing: each example's own mean square of its noise."""
    keys, x_0 = examples(8)
    silent = lambda x_t, t, condition, keys: jnp.zeros_like(x_t)  # noqa: E731
    each = jax.jit(lambda keys, x_0: losses.diffusion(silent, keys, x_0, None, LEVELS))(keys, x_0)
    np.testing.assert_allclose(each, np.mean(np.asarray(corrupted(keys, x_0).truth.eps) ** 2, 1), rtol=1e-5)


# --- ADM's losses ----------------------------------------------------------------------------------------------------

RECORDED = np.load(pathlib.Path(__file__).parents[1] / "golden" / "training_losses.npz", allow_pickle=False)
BASES = json.loads(str(RECORDED["meta"]))["bases"]


def recorded(base, item, mean):
    """The recorded noisy example and what the constant network says of its mean."""
    key = base["key"]
    levels = {"linear": schedule.linear, "cosine": schedule.cosine}[base["schedule"]](base["steps"])
    levels = schedule.respace(levels, base["respacing"]) if base.get("respacing") else levels
    take = lambda name: jnp.asarray(np.moveaxis(RECORDED[f"{key}/{name}"][item], 0, -1))  # noqa: E731
    x_0, eps, position = take("x_start"), take("noise"), int(RECORDED[f"{key}/t"][item]) + 1
    level = schedule.at(levels, position)
    x_t = level.alpha * x_0 + level.sigma * eps
    noisy = losses.Noisy(x_t, Prediction(x_0, eps), level, jax.random.key(0), jnp.int32(position))
    return levels, noisy, take(f"model_output/{mean}"), take("model_var_output/learned_range")


@functools.partial(jax.jit, static_argnums=3)
def hybrid_with_gradient(output, noisy, levels, target):
    found = losses.hybrid(output, noisy, levels, target)
    return found, jax.grad(lambda output: sum(losses.hybrid(output, noisy, levels, target)))(output)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base["key"])
@pytest.mark.parametrize("mean", ["epsilon", "start_x"])
def test_the_hybrid_loss_is_adms_with_its_stopped_gradient(base, mean):
    """Mean and bound of each example, and the gradient of their sum: the bound moves the variance half alone."""
    target = {"epsilon": "eps", "start_x": "x_0"}[mean]
    row = f"{base['key']}/{mean}/learned_range"
    for item in range(len(RECORDED[f"{base['key']}/t"])):
        levels, noisy, first, second = recorded(base, item, mean)
        output = jnp.concatenate([first, second], -1)
        found, gradient = jax.device_get(hybrid_with_gradient(output, noisy, levels, target))
        np.testing.assert_allclose(found.mse, RECORDED[f"{row}/mse/mse"][item], rtol=2e-4)
        np.testing.assert_allclose(found.bits, RECORDED[f"{row}/mse/vb"][item], rtol=3e-3, atol=2e-5)
        np.testing.assert_allclose(sum(found), RECORDED[f"{row}/mse/loss"][item], rtol=2e-3, atol=2e-5)
        rescaled = found.mse + found.bits * (len(levels.t) - 1) / 1000
        np.testing.assert_allclose(rescaled, RECORDED[f"{row}/rescaled_mse/loss"][item], rtol=2e-3, atol=2e-5)
        if mean != "epsilon":  # recorded for that alone
            continue
        want = np.moveaxis(RECORDED[f"{row}/mse/grad_model_output"][item], 0, -1)
        np.testing.assert_allclose(gradient, want, atol=5e-3 * np.abs(want).max())


@pytest.mark.parametrize("base", BASES, ids=lambda base: base["key"])
@pytest.mark.parametrize("mean", ["epsilon", "start_x"])
@pytest.mark.parametrize("var", ["fixed_small", "fixed_large", "learned_range"])
def test_the_kl_loss_is_adms(base, mean, var):
    target = {"epsilon": "eps", "start_x": "x_0"}[mean]
    row = f"{base['key']}/{mean}/{var}"
    for item in range(len(RECORDED[f"{base['key']}/t"])):
        levels, noisy, first, second = recorded(base, item, mean)
        variance = {"fixed_small": "small", "fixed_large": "large", "learned_range": second}[var]
        bits = losses.bound_bits(first, variance, noisy, levels, target)
        np.testing.assert_allclose(bits, RECORDED[f"{row}/kl/loss"][item], rtol=3e-3, atol=2e-5)
        np.testing.assert_allclose(
            bits * (len(levels.t) - 1), RECORDED[f"{row}/rescaled_kl/loss"][item], rtol=3e-3, atol=2e-2
        )


def test_a_network_that_learns_its_variance_finds_the_optimal_one():
    """Of one normal law, of one level: the bound's minimum in v is where the step's variance is the true one."""
    levels, position = schedule.respace(schedule.cosine(1000), 4), 3
    now, then = schedule.at(levels, position), schedule.at(levels, position - 1)
    fractions = jnp.linspace(-1, 1, 41)

    def bits(key, v):
        key_x, key_eps = jax.random.split(key)
        x_0, eps = ONE.sample(key_x), jax.random.normal(key_eps, (2,))
        x_t = now.alpha * x_0 + now.sigma * eps
        noisy = losses.Noisy(x_t, Prediction(x_0, eps), now, key, jnp.int32(position))
        return losses.bound_bits(ONE.denoiser()(x_t, now).x_0, jnp.full(2, v), noisy, levels, "x_0")

    keys = jax.random.split(jax.random.key(0), 4000)
    mean = jax.jit(jax.vmap(lambda v: jax.vmap(lambda key: bits(key, v))(keys).mean()))(fractions)
    best = float(fractions[jnp.argmin(mean)])
    small, beta = forward.posterior(jnp.zeros(()), jnp.zeros(()), now, then).variance, forward.step_beta(now, then)
    optimal = reverse.optimal_variance(reverse.normal_spread(0.35))(Prediction(jnp.zeros(()), jnp.zeros(())), now, then)
    want = 2 * float(jnp.log(optimal / small) / jnp.log(beta / small)) - 1
    assert abs(best - want) < 0.12
