import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from guided_jax import checkpoint, data, log, parallel, training
from tests import tiny

RNG = np.random.default_rng(0)
SOURCE = data.in_memory(RNG.integers(0, 256, (100, 8, 8, 1)), RNG.integers(0, 10, 100), num_classes=10)
BATCH = next(data.loader(SOURCE, 16, seed=0))
INDICES = np.arange(16)
DEVICES = jax.devices()[:2]
STEP = parallel.data_parallel(tiny.train_step, DEVICES)


def fit(directory, num_steps, step=STEP, **options):
    batches = data.loader(SOURCE, 16, seed=5, flip=True)
    options = {"save_every": 10, "log_every": 4, **options}
    state = parallel.place(tiny.state(), DEVICES)
    return training.fit(step, state, batches, num_steps, directory=directory, **options), batches


def values(state):
    return state._replace(key=jax.random.key_data(state.key))


def test_the_average_starts_as_a_copy_of_the_parameters():
    state = tiny.state()
    chex.assert_trees_all_equal(state.ema, state.params)
    jax.tree.map(lambda leaf: leaf.delete(), state.params)
    assert np.isfinite(state.ema["params"]["bias"]).all()


def test_a_step_is_gradient_descent_on_the_loss_with_its_keys():
    state = tiny.state()
    keys = jnp.stack([jax.random.fold_in(jax.random.fold_in(state.key, 0), i) for i in range(16)])
    (value, extra), gradients = jax.value_and_grad(tiny.loss, has_aux=True)(state.params, keys, BATCH)
    updates, _ = tiny.OPTIMIZER.update(gradients, state.opt_state, state.params)
    expected = optax.apply_updates(state.params, updates)
    after, metrics = tiny.train_step(state, BATCH, INDICES)
    chex.assert_trees_all_close(after.params, expected, atol=1e-7)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
    np.testing.assert_allclose(metrics["worst"], extra["worst"], rtol=1e-6)
    squares = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(squares), rtol=1e-5)
    assert int(after.step) == 1
    assert after.key == state.key


@pytest.mark.parametrize(("warmup", "decay"), [(True, 0.1), (False, 0.9)])
def test_the_average_moves_by_one_minus_its_decay(warmup, decay):
    state = tiny.state()
    after, _ = training.train_step(
        state, BATCH, INDICES, loss=tiny.loss, optimizer=tiny.OPTIMIZER, ema_decay=0.9, ema_warmup=warmup
    )
    expected = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.params, after.params)
    chex.assert_trees_all_close(after.ema, expected, atol=1e-6)


def test_warm_up_ends_at_the_decay_asked_for():
    state = tiny.state()._replace(step=jnp.asarray(10**6))
    after, _ = tiny.train_step(state, BATCH, INDICES)
    expected = jax.tree.map(lambda old, new: 0.99 * old + 0.01 * new, state.params, after.params)
    chex.assert_trees_all_close(after.ema, expected, atol=1e-6)


def test_noise_changes_from_step_to_step():
    state = tiny.state()
    losses = [tiny.train_step(state._replace(step=jnp.asarray(n)), BATCH, INDICES)[1]["loss"] for n in (0, 1, 1)]
    assert losses[0] != losses[1] == losses[2]


def test_what_does_not_fit_is_refused_at_the_door():
    with pytest.raises(AssertionError):
        tiny.train_step(tiny.state(), BATCH, np.arange(15))
    with pytest.raises(AssertionError):
        tiny.train_step(tiny.state()._replace(ema={}), BATCH, INDICES)


@pytest.mark.parametrize(
    ("decay", "middle", "last"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.05), ("cosine", 0.5, 0.0062)]
)
def test_the_learning_rate_rises_then_decays(decay, middle, last):
    chain = training.optimizer(1.0, 30, warmup_steps=10, decay=decay, clip_norm=None, b1=0.0, b2=0.0)
    state, params, rates = chain.init(jnp.ones(())), jnp.ones(()), []
    for _ in range(30):
        update, state = chain.update(jnp.ones(()), state, params)
        rates.append(-float(update))  # Adam's direction is the sign of the gradient here
    np.testing.assert_allclose(
        rates[:11], [*np.linspace(0.1, 1, 10, endpoint=False), 1.0][: len(rates[:11])], rtol=1e-4
    )
    np.testing.assert_allclose([rates[20], rates[29]], [middle, last], atol=2e-3)


def test_clip_and_weight_decay_reach_the_update():
    def update(gradient, **options):
        chain = training.optimizer(1.0, 10, decay="constant", **options)
        return float(chain.update(jnp.asarray(gradient), chain.init(jnp.ones(())), jnp.ones(()))[0])

    assert update(0.0) == 0
    np.testing.assert_allclose(update(0.0, weight_decay=0.1), -0.1, rtol=1e-6)
    state = training.optimizer(1.0, 10, clip_norm=0.5)
    _, after = state.update(jnp.asarray(4.0), state.init(jnp.ones(())), jnp.ones(()))
    np.testing.assert_allclose(after[1][0].mu, 0.1 * 0.5, rtol=1e-6)
    with pytest.raises(ValueError, match="a warm-up of 10 steps does not fit in 10 steps"):
        training.optimizer(1.0, 10, warmup_steps=10)


def test_fit_learns_and_leaves_its_log_and_checkpoints(tmp_path):
    called = []
    state, _ = fit(tmp_path, 25, hooks=[(10, lambda done, state: called.append((done, int(state.step))))])
    rows = log.read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24, 25]
    assert set(rows[0]) == {"step", "loss", "worst", "grad_norm"}
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert called == [(10, 10), (20, 20)]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["20", "25"]
    assert int(state.step) == 25


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    def stop(done, state):
        if done == 17:  # three steps after a row, seven after a checkpoint
            raise KeyboardInterrupt

    whole, whole_batches = fit(tmp_path / "whole", 30)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", 30, hooks=[(1, stop)])
    assert checkpoint.latest(tmp_path / "parts" / "checkpoints") == 10
    assert log.read(tmp_path / "parts" / "metrics.jsonl")[-1]["step"] == 16
    parts, batches = fit(tmp_path / "parts", 30)
    chex.assert_trees_all_equal(values(parts), values(whole))
    assert batches.get_state() == whole_batches.get_state()
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    first, _ = fit(tmp_path, 5)
    again, _ = fit(tmp_path, 5, step=lambda state, batch: pytest.fail("a step was made"))
    chex.assert_trees_all_equal(values(again), values(first))
    assert [row["step"] for row in log.read(tmp_path / "metrics.jsonl")] == [4, 5]


def test_another_configuration_does_not_resume(tmp_path):
    fit(tmp_path, 2, config={"network": {"width": 64}, "num_steps": 2})
    with pytest.raises(ValueError, match=r"network\.width: 64 -> 32$"):
        fit(tmp_path, 4, config={"network": {"width": 32}, "num_steps": 4}, ignore=["num_steps"])
    state, _ = fit(tmp_path, 4, config={"network": {"width": 64}, "num_steps": 4}, ignore=["num_steps"])
    assert int(state.step) == 4


def test_a_run_that_diverges_stops_and_saves_nothing(tmp_path):
    def diverging(state, batch):
        state, metrics = STEP(state, batch)
        return state, {**metrics, "loss": metrics["loss"] * jnp.nan}

    with pytest.raises(FloatingPointError, match="the loss is nan at step 4"):
        fit(tmp_path, 20, step=diverging)
    assert checkpoint.latest(tmp_path / "checkpoints") is None
    with pytest.raises(FloatingPointError, match="the loss is nan at step 2"):
        fit(tmp_path, 20, step=diverging, save_every=2)
    assert checkpoint.latest(tmp_path / "checkpoints") is None


def test_data_that_ends_is_told_in_one_sentence(tmp_path):
    batches = data.loader(SOURCE, 16, seed=5, repeat=False)
    with pytest.raises(ValueError, match="the data ended before step 7 of 10"):
        training.fit(STEP, parallel.place(tiny.state(), DEVICES), batches, 10, directory=tmp_path)
