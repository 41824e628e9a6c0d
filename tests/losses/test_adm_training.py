"""OpenAI's training semantics: its optimizer, its averages and its sampler of steps, as recorded."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from guided_jax import schedule, training
from guided_jax.forward import diffuse
from guided_jax.losses import importance

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TRACE, RESAMPLER = (
    np.load(GOLDEN / f"{name}.npz", allow_pickle=False) for name in ("train_trace", "second_moment_resampler")
)
LEVELS = schedule.linear(1000)


def params_of(case, name, row):
    """The recorded model: out = conv1x1(x) + t / 1000 a."""
    take = lambda part: jnp.asarray(TRACE[f"{case['key']}/{name}/{part}"][row])  # noqa: E731
    return {"a": take("a"), "kernel": take("conv.weight")[:, :, 0, 0].T, "bias": take("conv.bias")}


def recorded_loss(parts):
    """The weighted mean of [DDPM]'s loss on recorded times and noise; a sum over the microbatches, as theirs is."""

    def loss(params, keys, batch):
        level = jax.vmap(lambda t: schedule.at(LEVELS, t + 1))(batch["t"])
        x_t = jax.vmap(diffuse)(batch["x"], batch["noise"], level)
        bias, a = (jnp.broadcast_to(params[name], x_t.shape) for name in ("bias", "a"))
        output = x_t @ params["kernel"] + bias + (batch["t"] / 1000)[:, None, None, None] * a
        each = jnp.mean(jnp.square(output - batch["noise"]), (1, 2, 3)) * batch["weight"]
        return each.mean() * parts, {}

    return loss


@pytest.mark.parametrize("case", json.loads(str(TRACE["meta"]))["cases"], ids=lambda case: case["key"])
def test_training_goes_where_adms_went(case):
    """AdamW with its anneal, the averages of every rate, microbatches, weighted losses: step by step."""
    key = case["key"]
    parts = case["batch_size"] // case["microbatch"] if case["microbatch"] > 0 else 1
    anneal = case["lr_anneal_steps"]
    # Their rate falls after a step, by its number counted from 0: the first two steps have the same.
    annealed = optax.linear_schedule(case["lr"], 0.0, anneal, transition_begin=1)
    rate = annealed if anneal else case["lr"]
    optimizer = optax.adamw(rate, weight_decay=case["weight_decay"])
    take = lambda name, i: jnp.asarray(TRACE[f"{key}/{name}"][i])  # noqa: E731
    for ema in case["ema_rate"].split(","):
        state = training.init(jax.random.key(0), params_of(case, "params", 0), optimizer)
        for i in range(case["n_steps"]):
            weights = take("loss_weights", i) if f"{key}/loss_weights" in TRACE.files else jnp.ones(case["batch_size"])
            batch = {
                "x": jnp.moveaxis(take("x", i), 1, -1),
                "noise": jnp.moveaxis(take("noise", i), 1, -1),
                "t": take("t", i).astype(int),
                "weight": weights,
            }
            state, metrics = training.train_step(
                state,
                batch,
                jnp.arange(case["batch_size"]),
                loss=recorded_loss(parts),
                optimizer=optimizer,
                ema_decay=float(ema),
                ema_warmup=False,
                microbatches=parts,
            )
            np.testing.assert_allclose(metrics["grad_norm"], TRACE[f"{key}/grad_norm"][i], rtol=1e-3)
            for name, got in (("params", state.params), (f"ema_{ema}", state.ema)):
                want = params_of(case, name, i + 1)
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), got, want)


@pytest.mark.parametrize("case", json.loads(str(RESAMPLER["meta"]))["cases"], ids=lambda case: case["key"])
def test_the_sampler_of_steps_is_adms(case):
    take = lambda name: RESAMPLER[f"{case['key']}/{name}"]  # noqa: E731
    history = importance.empty(case["num_timesteps"], case["history_per_term"])
    for ts, seen, weights, factors in zip(
        take("ts"), take("losses"), take("weights"), take("importance_weights"), strict=True
    ):
        history = importance.record(history, jnp.asarray(ts, int), jnp.asarray(seen))
        p = importance.probabilities(history, case["uniform_prob"])
        np.testing.assert_allclose(p, weights / weights.sum(), rtol=1e-4)
        np.testing.assert_allclose(1 / (len(p) * p), factors, rtol=1e-4)
    np.testing.assert_allclose(history.losses, take("final_history"), rtol=1e-6)
    np.testing.assert_array_equal(history.counts, take("final_counts"))


def test_weighted_draws_have_the_mean_of_uniform_ones():
    p, values = jnp.array([0.5, 0.3, 0.15, 0.05]), jnp.array([4.0, 1.0, -2.0, 7.0])
    index, weight = jax.vmap(lambda key: importance.draw(key, p))(jax.random.split(jax.random.key(0), 40_000))
    np.testing.assert_allclose(jnp.bincount(index, length=4) / 40_000, p, atol=0.01)
    np.testing.assert_allclose((weight * values[index]).mean(), values.mean(), atol=0.1)
    with pytest.raises(ValueError, match="at least 1"):
        importance.empty(0)
