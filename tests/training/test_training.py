import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from guided_jax import data, parallel, training
from guided_jax.storage import checkpoint, log
from guided_jax.training import loop
from tests import tiny

RNG = np.random.default_rng(0)
SOURCE = data.in_memory(RNG.integers(0, 256, (100, 8, 8, 1)), RNG.integers(0, 10, 100), num_classes=10)
BATCH = next(data.loader(SOURCE, 16, seed=0))
INDICES = np.arange(16)
DEVICES = jax.devices()[:2]
STEP = parallel.data_parallel(tiny.train_step, DEVICES)


def fit(directory, num_steps, step=STEP, **options):
    batches = data.loader(SOURCE, 16, seed=5, flip=True)
    stop = options.pop("stop", loop.never)
    options = {"save_every": 10, "log_every": 4, **options}
    return loop.fit(loop.Job(step, init, batches, num_steps, directory, **options), stop), batches


def init():
    return parallel.place(tiny.state(), DEVICES)


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
    np.testing.assert_allclose(metrics["update_norm"], optax.tree.norm(updates), rtol=1e-4)
    np.testing.assert_allclose(metrics["param_norm"], optax.tree.norm(expected), rtol=1e-5)
    assert "learning_rate" not in metrics
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


def test_warm_up_ends_at_ema_decay():
    state = tiny.state()._replace(step=jnp.asarray(10**6))
    after, _ = tiny.train_step(state, BATCH, INDICES)
    expected = jax.tree.map(lambda old, new: 0.99 * old + 0.01 * new, state.params, after.params)
    chex.assert_trees_all_close(after.ema, expected, atol=1e-6)


def test_noise_changes_from_step_to_step():
    state = tiny.state()
    losses = [tiny.train_step(state._replace(step=jnp.asarray(n)), BATCH, INDICES)[1]["loss"] for n in (0, 1, 1)]
    assert losses[0] != losses[1] == losses[2]


def test_batches_and_states_of_other_shapes_are_refused():
    with pytest.raises(AssertionError):
        tiny.train_step(tiny.state(), BATCH, np.arange(15))
    with pytest.raises(AssertionError):
        tiny.train_step(tiny.state()._replace(ema={}), BATCH, INDICES)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("dispatch", [1, 3])
def test_rows_have_the_learning_rate_of_their_step(tmp_path, decay, dispatch):
    """Adam's first moment off, its second one too: an update is the learning rate in each of 65 * 64 parameters."""
    rates = training.learning_rate_schedule(2e-3, 6, warmup_steps=2, decay=decay)
    optimizer = training.optimizer(2e-3, 6, 2, decay=decay, clip_norm=None, b1=0.0, b2=0.0)
    state = training.init(jax.random.key(1), tiny.state().params, optimizer)
    step = functools.partial(
        training.train_step, loss=tiny.loss, optimizer=optimizer, ema_decay=0.9, learning_rate=rates
    )
    batches = data.loader(SOURCE, 16, seed=5)
    place = lambda: parallel.place(state, DEVICES)  # noqa: E731
    compiled = parallel.data_parallel(step, DEVICES)
    loop.fit(loop.Job(compiled, place, batches, 6, tmp_path, log_every=1, steps_per_dispatch=dispatch))
    rows = log.read(tmp_path / "metrics.jsonl")
    np.testing.assert_allclose([row["learning_rate"] for row in rows], [float(rates(n)) for n in range(6)], rtol=1e-6)
    np.testing.assert_allclose(
        [row["update_norm"] for row in rows], [row["learning_rate"] * np.sqrt(65 * 64) for row in rows], rtol=1e-3
    )


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


def test_fit_learns_and_writes_its_log_and_checkpoints(tmp_path):
    called = []
    state, _ = fit(tmp_path, 25, hooks=[(10, lambda done, state: called.append((done, int(state.step))))])
    rows = log.read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24, 25]
    assert set(rows[0]) == {"step", "loss", "worst", "grad_norm", "update_norm", "param_norm"}
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
        fit(tmp_path, 4, config={"network": {"width": 32}, "num_steps": 4}, may_change=["num_steps"])
    state, _ = fit(tmp_path, 4, config={"network": {"width": 64}, "num_steps": 4}, may_change=["num_steps"])
    assert int(state.step) == 4


def with_bad_metric(name, at, value=jnp.nan):
    """Return the step, with a metric that is not finite from some step on."""

    def step(state, *batches):
        state, metrics = STEP(state, *batches)
        bad = state.step - jnp.arange(len(batches))[::-1].reshape(jnp.shape(metrics[name])) >= at
        return state, {**metrics, name: jnp.where(bad, value, metrics[name])}

    return step


@pytest.mark.parametrize("dispatch", [1, 3])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("loss", jnp.nan, "the loss is nan"), ("grad_norm", jnp.inf, "the norm of the gradients is inf")],
)
def test_a_run_that_diverges_says_when_and_saves_nothing_bad(tmp_path, name, value, message, dispatch):
    with pytest.raises(FloatingPointError, match=f"^{message} at step 3; no checkpoint was saved yet; try a lower"):
        fit(tmp_path / "early", 20, step=with_bad_metric(name, 3, value), steps_per_dispatch=dispatch)
    assert checkpoint.latest(tmp_path / "early" / "checkpoints") is None
    with pytest.raises(FloatingPointError, match=rf"^{message} at step 17; the last good checkpoint is 10 in .*early/"):
        fit(tmp_path / "early", 20, step=with_bad_metric(name, 17, value), steps_per_dispatch=dispatch)
    assert checkpoint.steps(tmp_path / "early" / "checkpoints") == [10]
    assert [row["step"] for row in log.read(tmp_path / "early" / "metrics.jsonl")] == [4, 8, 12, 16]
    # At the step of a checkpoint: the metrics are checked before it is saved.
    with pytest.raises(FloatingPointError, match=f"^{message} at step 20; the last good checkpoint is 10 "):
        fit(tmp_path / "early", 20, step=with_bad_metric(name, 20, value), steps_per_dispatch=dispatch)
    assert checkpoint.steps(tmp_path / "early" / "checkpoints") == [10]


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    def step(state, batch):
        state, metrics = STEP(state, batch)
        return state._replace(ema=jax.tree.map(lambda leaf: leaf * jnp.inf, state.ema)), metrics

    with pytest.raises(FloatingPointError, match="the parameters are no longer finite at step 10; no checkpoint"):
        fit(tmp_path, 20, step=step)
    assert checkpoint.latest(tmp_path / "checkpoints") is None


def test_gradients_that_overflow_are_found_in_a_real_step(tmp_path):
    """One example of 1e30: the loss overflows, and with it everything after."""
    huge = SOURCE.read(np.arange(16))["image"].astype(np.float32)
    huge[3] = 1e30

    class Batches(list):
        def get_state(self):
            return len(self)

        def __next__(self):
            return {"image": huge if len(self) == 5 else huge.clip(-1, 1), "label": self.pop()}

    batches = Batches([np.zeros(16, np.int32)] * 9)
    with pytest.raises(FloatingPointError, match="at step 5;"):
        loop.fit(loop.Job(STEP, init, batches, 9, tmp_path))
    assert checkpoint.latest(tmp_path / "checkpoints") is None


@pytest.mark.usefixtures("curves")
def test_held_out_metrics_join_the_rows_and_choose_the_best_checkpoint(tmp_path):
    value_at = {5: 0.3, 10: 0.1, 15: 0.2, 20: 0.4, 25: 0.2, 27: 0.5}
    fit(
        tmp_path,
        27,
        save_every=5,
        evaluations=[(5, lambda state: {"held_out_loss": value_at[int(state.step)]})],
        keep_best="held_out_loss",
    )
    rows = {row["step"]: row for row in log.read(tmp_path / "metrics.jsonl")}
    assert {step: row["held_out_loss"] for step, row in rows.items() if "held_out_loss" in row} == value_at
    assert sorted(rows) == sorted({*value_at, *range(4, 28, 4)})
    assert checkpoint.steps(tmp_path / "checkpoints") == [10, 25, 27]
    assert checkpoint.best(tmp_path / "checkpoints", "held_out_loss") == 10
    log.plot(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


@pytest.mark.parametrize(("highest", "kept"), [(False, 15), (True, 10)])
def test_the_best_is_kept_by_any_metric_and_in_its_direction(tmp_path, highest, kept):
    """Two evaluations at their own intervals; a checkpoint without the metric is not the best."""
    value_at = {10: 0.9, 15: 0.1, 20: 0.4, 25: 0.3, 30: 0.5}
    steps = []
    measure = lambda state: steps.append(int(state.step)) or {"samples_precision": value_at[int(state.step)]}  # noqa: E731
    evaluate = [
        (10, lambda state: {"held_out_loss": 1.0}),
        (5, lambda state: {} if state.step < 10 else measure(state)),
    ]
    options = {"keep_best": "samples_precision", "keep_highest": highest, "keep": 1}
    fit(tmp_path, 30, save_every=5, log_every=100, evaluations=evaluate, **options)
    assert steps == list(value_at)
    rows = {row["step"]: row for row in log.read(tmp_path / "metrics.jsonl")}
    assert [step for step, row in rows.items() if "held_out_loss" in row] == [10, 20, 30]
    assert {step: row["samples_precision"] for step, row in rows.items()} == value_at
    assert checkpoint.steps(tmp_path / "checkpoints") == [kept, 30]
    assert checkpoint.best(tmp_path / "checkpoints", "samples_precision", highest) == kept


def test_a_part_is_divided_when_it_is_logged_and_left_out_when_it_is_empty(tmp_path):
    values = jnp.asarray([1.0, 3.0, 5.0, 7.0])

    def loss(params, keys, batch):
        value, _ = tiny.loss(params, keys, batch)
        few = training.part(values[batch["label"] % 4], batch["label"] % 4 > 1)
        return value, {"few": few, "none": training.part(values[batch["label"] % 4], batch["label"] < 0)}

    step = parallel.data_parallel(
        functools.partial(training.train_step, loss=loss, optimizer=tiny.OPTIMIZER, ema_decay=0.9), DEVICES
    )
    batches = data.loader(SOURCE, 16, seed=5)
    label = next(batches)["label"] % 4
    batches.set_state(data.loader(SOURCE, 16, seed=5).get_state())
    loop.fit(loop.Job(step, init, batches, 1, tmp_path))
    (row,) = log.read(tmp_path / "metrics.jsonl")
    np.testing.assert_allclose(row["few"], np.asarray(values)[label[label > 1]].mean(), rtol=1e-6)
    assert "none" not in row


def test_data_that_ends_is_one_sentence(tmp_path):
    batches = data.loader(SOURCE, 16, seed=5, repeat=False)
    with pytest.raises(ValueError, match="the data ended before step 7 of 10"):
        loop.fit(loop.Job(STEP, init, batches, 10, tmp_path))
