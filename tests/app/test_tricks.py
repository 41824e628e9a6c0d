"""The training tricks as settings: a tiny run of flow matching with most of them, and the errors of wrong use."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import measured
from benchmarks import tricks as benchmark
from guided_jax import data, losses, model, parallel, sampler, schedule, training
from guided_jax.app import experiments, facts, nll, posthoc, trained_model
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import draw, samplers
from guided_jax.app.sample.request import Method
from guided_jax.app.train import checks, networks, objective
from guided_jax.app.train import command as train
from guided_jax.losses import times, weighting
from guided_jax.storage import checkpoint, compare, images
from tests.oracle import MIXTURE
from tests.scripts import NETWORKS, run_script

TRICKS = [
    *("--schedule.name", "flow", "--schedule.num-steps", "20", "--diffusion.parameterization", "flow"),
    *("--diffusion.weighting.name", "sigmoid", "--diffusion.times.law", "logit-normal"),
    *("--diffusion.times.stratified", "--diffusion.self-conditioning"),
    *("--diffusion.power-ema", "0.05", "0.1", "--diffusion.snapshot-every", "2"),
    *("--diffusion.batch-size", "8", "--diffusion.checkpoint-every", "2", "--diffusion.sample-every", "0"),
    *(
        "--diffusion.num-steps",
        "4",
        "--devices",
        "1",
        "--diffusion.log-every",
        "1",
        "--diffusion.eval-examples",
        "16",
        "--classifier.num-steps",
        "0",
    ),
    *NETWORKS,
]


@pytest.fixture(scope="module")
def tricky(tmp_path_factory):
    """A run of four steps; the tests only read it."""
    out = tmp_path_factory.mktemp("tricks") / "run"
    train.main(["digits", "--out", str(out), *TRICKS])
    return out


def test_a_run_with_all_tricks_trains_and_stores_its_averages(tricky):
    rows = [json.loads(line) for line in (tricky / "diffusion" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert "held_out_loss" in rows[-1]
    run = runs.load(tricky)
    assert run.experiment.diffusion.power_ema == (0.05, 0.1)
    assert float(run.model.levels.alpha[-1]) == 0
    kernel = runs.params(tricky, "diffusion")["params"]["input_blocks_0_0"]["kernel"]
    assert kernel.shape[2] == 2  # x_t and the last x_0
    assert posthoc.snapshot_steps(tricky) == [2, 4]
    stored = dict(posthoc.load_snapshot(tricky / "diffusion" / "power_ema" / "4.npz"))
    saved = checkpoint.restore(tricky / "diffusion" / "checkpoints", networks.init_state(run, "diffusion")).state
    for sigma_rel, average in zip((0.05, 0.1), saved.opt_state.averages, strict=True):
        jax.tree.map(np.testing.assert_array_equal, stored[sigma_rel], average)


SAMPLING = ["--scale", 2, "--steps", 3, "--num-samples", 2, "--devices", 1]  # one compiled program for both tests


@pytest.mark.slow
@pytest.mark.parametrize("guidance", ["classifier-free", "projected"])
def test_its_samples_are_finite(tricky, tmp_path, capsys, guidance):
    arguments = [tricky, "--guidance", guidance, *SAMPLING, "--labels", 3, "--out", tmp_path / "out"]
    code, _, err = run_script(sample.main, arguments, capsys)
    assert code == 0, err
    pictures, _ = images.load_npz(tmp_path / "out" / "samples.npz")
    assert pictures.shape == (2, 8, 8, 1)
    assert pictures.std() > 0


def test_self_conditioning_changes_the_samples(tricky):
    """With zeros in place of the last x_0, the same weights and noise give other samples."""
    run, method = runs.load(tricky), Method(steps="4", clip=False)
    params = {"diffusion": jax.tree.map(lambda leaf: leaf + 0.02, runs.params(tricky, "diffusion"))}
    drawn = jax.jit(draw.make_draw(run, method, True))
    conditioned = drawn(params, jax.random.key(0), 3, 1.0)
    diffusion = run.experiment.diffusion
    kernel = params["diffusion"]["params"]["input_blocks_0_0"]["kernel"]
    params["diffusion"]["params"]["input_blocks_0_0"]["kernel"] = kernel.at[:, :, 1:].set(0)
    assert diffusion.self_conditioning
    assert np.isfinite(conditioned).all()
    assert np.abs(conditioned - drawn(params, jax.random.key(0), 3, 1.0)).max() > 1e-4


def test_an_average_of_another_length_can_be_sampled_from(tricky, tmp_path, capsys):
    made = tmp_path / "made"
    code, out, err = run_script(posthoc.main, [tricky, "--sigma-rel", "0.1", "--out", made], capsys)
    assert code == 0, err
    assert f"guided-jax sample {made}" in out
    want = dict(posthoc.load_snapshot(tricky / "diffusion" / "power_ema" / "4.npz"))[0.1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), runs.params(made, "diffusion"), want)
    code, _, err = run_script(sample.main, [made, "--guidance", "classifier-free", *SAMPLING], capsys)
    assert code == 0, err
    for words, said in (
        (["--out", made], "is not empty; give another --out"),
        (["--step", "1"], "has stored averages of the steps 2 to 4"),
        (["--step", "5"], "has stored averages of the steps 2 to 4"),
        (["--sigma-rel", "0.15"], "sigma_rel 0.15 is too far from 0.05, 0.1"),
        (["--sigma-rel", "0.4"], "--sigma-rel is 0.4; give a number above 0, up to 0.2886"),
    ):
        code, _, err = run_script(posthoc.main, [tricky, *words], capsys)
        assert code == 2
        assert said in err


def test_a_run_without_averages_says_how_to_store_them(tricky, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes((tricky / "config.json").read_bytes())
    code, _, err = run_script(posthoc.main, [tmp_path], capsys)
    assert code == 2
    assert "has stored no averages; train with --diffusion.power-ema 0.05 0.1" in err


class Echo:
    """A network whose output is a combination of its input channels."""

    def apply(self, params, x, t, label, low_res):
        assert x.shape == (8, 8, 2)
        return params * x[..., :1] + x[..., 1:]


def test_without_an_estimate_the_network_is_given_zeros(tricky):
    """As in the nll command, which has no last x_0."""
    run, x = runs.load(tricky), jnp.linspace(-1, 1, 64).reshape(8, 8, 1)
    level, settings = schedule.at(run.model.levels, 10), run.experiment.diffusion

    def predict(estimate):
        network = trained_model.make_network(settings, Echo(), estimate=estimate)
        return model.denoiser(run.model._replace(network=network), 0.5, 3)(x, level).x_0

    np.testing.assert_array_equal(predict(None), predict(jnp.zeros_like(x)))
    assert np.abs(predict(None) - predict(0.5 * jnp.ones_like(x))).max() > 0.01


@pytest.mark.slow
def test_bits_per_dimension_are_finite_with_self_conditioning(tricky, tmp_path, capsys):
    arguments = [tricky, "--num-samples", "2", "--batch-size", "2", "--steps", "5", "--out", tmp_path / "bits"]
    code, out, err = run_script(nll.main, arguments, capsys)
    assert code == 0, err
    assert np.isfinite(float(out.split()[0]))


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tricky, tmp_path):
    """Stopped after two of four steps: the same averages, weights and rows, bit for bit."""
    steps, run = iter(range(9)), runs.load(tricky)
    assert not train.train(run.experiment, tmp_path, stop=lambda: next(steps) >= 2)
    assert posthoc.snapshot_steps(tmp_path) == [2]
    assert train.train(run.experiment, tmp_path)
    for name in ("metrics.jsonl", "power_ema/2.npz", "power_ema/4.npz"):
        if name.endswith("npz"):
            got, want = (dict(posthoc.load_snapshot(place / "diffusion" / name)) for place in (tmp_path, tricky))
            jax.tree.map(np.testing.assert_array_equal, got, want)
        else:
            assert (tmp_path / "diffusion" / name).read_bytes() == (tricky / "diffusion" / name).read_bytes()
    jax.tree.map(np.testing.assert_array_equal, *(runs.params(place, "diffusion") for place in (tmp_path, tricky)))


def test_averages_that_fail_leave_nothing_and_a_full_folder_is_refused_before_they_are_made(
    tiny, tmp_path, monkeypatch, capsys
):
    calls = []
    monkeypatch.setattr(posthoc, "reconstruct", lambda *_: calls.append(1) or (4, {"w": np.zeros(2)}))
    monkeypatch.setattr(posthoc.checkpoint, "save", fail)
    code, _, err = run_script(posthoc.main, [tiny, "--out", tmp_path / "a" / "run"], capsys)
    assert (code, err, len(calls)) == (2, "error: no room\n", 1)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = run_script(posthoc.main, [tiny, "--out", tmp_path], capsys)
    assert (code, f"{tmp_path} is not empty; give another --out" in err, len(calls)) == (2, True, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def fail(*_, **__):
    raise OSError("no room")


def test_a_damaged_snapshot_is_named(tricky, tmp_path):
    path = tmp_path / "4.npz"
    path.write_bytes((tricky / "diffusion" / "power_ema" / "4.npz").read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"4\.npz is damaged"):
        dict(posthoc.load_snapshot(path))


def test_every_variant_of_the_benchmark_changes_only_the_settings_it_names(monkeypatch):
    """Beside numbers of steps and `*_every` settings, which the benchmark sets for all variants."""
    monkeypatch.setitem(benchmark.VARIANTS, "nothing", benchmark.Variant("", {}))
    settings = {name: benchmark.experiment(name, 1, 30) for name in benchmark.VARIANTS}
    found = {name: fields(settings["nothing"], each) for name, each in settings.items()}
    for name, variant in benchmark.VARIANTS.items():
        checks.check(settings[name])
        assert settings[name].schedule.make().t.size == 1001
        named = [*(f"diffusion.{key}" for key in variant.diffusion), *(f"schedule.{key}" for key in variant.schedule)]
        assert sorted(".".join(field.split(".")[:2]) for field in found[name]) == sorted(named), name
    assert found["v-min-snr"] == {"diffusion.parameterization", "diffusion.weighting.name"}
    assert found["stratified"] == {"diffusion.times.stratified"}
    often = ("num_steps", "checkpoint_every", "eval_every", "sample_every", "keep_best", "snapshot_every", "batch_size")
    expected = {"seed", "classifier.num_steps", *(f"diffusion.{name}" for name in often)}
    assert fields(experiments.load("digits"), settings["nothing"]) == expected


def fields(one, other):
    """The settings in which two experiments differ."""
    return {line.split(":")[0] for line in compare.differences(schema.to_dict(one), schema.to_dict(other))}


def test_the_tables_of_the_benchmark_have_means_and_deviations():
    rows = [{"weights": "usual", "scale": 1.0, "accuracy": 0.9, "fd": 0.1, "precision": 0.8, "recall": 0.7}]
    found = [
        {"asked": {"variant": "p2", "seed": seed}, "held_out_loss": 0.1 * seed, "rows": rows, "real": rows[0]}
        for seed in (1, 2, 3)
    ]
    (text,) = benchmark.tables(found).values()
    assert "| eps, P2 | 3 | 0.2000 ± 0.1000 | 0.9000 ± 0.0000 | 0.1000 ± 0.0000 |" in text
    assert "| held-out digits |  |  | 0.9 |" in text
    filled = measured.fill(benchmark.PAGE.read_text(), benchmark.tables(found))
    assert text in filled


WRONG = [
    (["--schedule.zero-terminal-snr"], "--diffusion.parameterization is eps, which says nothing of x_0 at the end"),
    (["--diffusion.weighting.name", "edm"], "use --diffusion.parameterization v"),
    (
        ["--diffusion.weighting.min-snr-gamma", "0"],
        "--diffusion.weighting.min-snr-gamma is 0.0; give a finite number above 0",
    ),
    (["--diffusion.weighting.sigmoid-bias", "nan"], "--diffusion.weighting.sigmoid-bias is nan; give a finite number"),
    (["--diffusion.times.std", "-1"], "--diffusion.times.std is -1.0; give a finite number above 0"),
    (
        ["--diffusion.power-ema", "0.05", "0.5"],
        "--diffusion.power-ema is 0.05 0.5; give a number above 0, up to 0.2886",
    ),
    (["--diffusion.power-ema", "0.1", "0.1"], "give each length once"),
    (["--diffusion.snapshot-every", "0"], "--diffusion.snapshot-every is 0; give at least 1"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_wrong_settings_are_refused_in_one_sentence(tmp_path, capsys, words, said):
    code, _, err = run_script(train.main, ["digits", "--out", tmp_path / "run", *words], capsys)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_diagnosing_a_network_with_self_conditioning_is_refused(tricky, capsys):
    code, _, err = run_script(sample.main, [tricky, "--diagnose"], capsys)
    assert code == 2
    assert "leave it out for this run" in err


def test_configs_of_older_versions_are_read_with_the_plain_loss():
    experiment = experiments.load("digits")
    old = schema.to_dict(experiment)
    for name in ("weighting", "times", "self_conditioning", "power_ema", "snapshot_every"):
        del old["diffusion"][name]
    for name in ("zero_terminal_snr", "sigma_min", "sigma_max", "rho"):
        del old["schedule"][name]
    assert schema.from_dict(old) == experiment
    settings = experiment.diffusion
    assert settings.weighting.make(schedule.cosine(10), "eps") is None
    assert settings.times.make() is None


TABLE = schedule.zero_terminal_snr(schedule.cosine(100))


@pytest.mark.parametrize("grid", ["respaced", *samplers.GRIDS])
@pytest.mark.parametrize("steps", [2, 7])
def test_grids_of_zero_terminal_snr_begin_at_pure_noise(grid, steps):
    """Beyond any --sigma-max, with the requested number of levels; other tables begin at --sigma-max."""
    levels = samplers.levels_of(Method(grid=grid, steps=str(steps)), TABLE)
    assert levels.t.shape == (steps + 1,)
    assert (float(levels.t[-1]), float(levels.alpha[-1]), float(levels.sigma[-1])) == (100, 0, 1)
    assert (np.diff(levels.t) > 0).all()
    plain = samplers.levels_of(Method(grid="log-snr", steps="7"), schedule.cosine(100))
    np.testing.assert_allclose(plain.sigma[-1] / plain.alpha[-1], 80, rtol=1e-3)
    single = samplers.levels_of(Method(grid="log-snr", steps="1"), TABLE)
    np.testing.assert_allclose(single.alpha, [1, 0])


def test_a_grid_that_would_begin_below_pure_noise_is_refused():
    with pytest.raises(ValueError, match=r"--steps is ddim8, which begins at t = \d+; .* pure noise at t = 100: give"):
        samplers.levels_of(Method(steps="ddim8"), schedule.zero_terminal_snr(schedule.cosine(100)))


REPRESENTATIVE = ("heun", "dpm++2s", "unipc", "deis")  # one for each kind of coefficients


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.slow) for name in samplers.SAMPLERS]
)
def test_every_sampler_begins_at_pure_noise_and_ends_finite(name):
    method = Method(sampler=name, steps="2", variance="small")
    levels, step = samplers.levels_of(method, TABLE), samplers.make_step(method, TABLE)
    x_T = jax.random.normal(jax.random.key(0), (2,))
    draw = jax.jit(lambda x: sampler.sample(jax.random.key(1), MIXTURE.denoiser(), step, x, levels))
    assert np.isfinite(draw(x_T)).all()


PLAIN = schedule.cosine(100)
NETWORK = nn.Dense(64)
OPTIMIZER = training.optimizer(3e-3, 100)
STRATIFIED = schema.Diffusion(batch_size=16, times=schema.Times(stratified=True))


def loss(params, keys, batch):
    """Denoising loss of one layer, with stratified times."""
    strata = times.Strata(batch["index"], STRATIFIED.batch_size)
    x_0 = batch["image"].reshape(len(keys), -1)
    noisy = losses.corrupt(keys, x_0, PLAIN, times.logit_normal, strata)
    each = losses.denoising(lambda x, t, label, keys: NETWORK.apply(params, x), noisy, None, PLAIN)
    return each.mean(), {"t": noisy.level.t.mean()}


@functools.cache
def step_once(devices, microbatches):
    """Return the parameters after one step, and its metrics."""
    rng = np.random.default_rng(0)
    source = data.in_memory(rng.integers(0, 256, (64, 8, 8, 1)), rng.integers(0, 10, 64), num_classes=10)
    batch = next(data.loader(source, 16, seed=0))
    step = functools.partial(
        training.train_step, loss=loss, optimizer=OPTIMIZER, ema_decay=0.9, microbatches=microbatches
    )
    compiled = parallel.data_parallel(objective.with_indices(step), jax.devices()[:devices])
    params = NETWORK.init(jax.random.key(0), jnp.zeros(64))
    state = training.init(jax.random.key(1), params, OPTIMIZER)
    state, metrics = compiled(parallel.place(state, jax.devices()[:devices]), batch)
    return jax.device_get((state.params, metrics))


@pytest.mark.parametrize(("devices", "microbatches"), [(1, 4), (2, 2)])
def test_the_loss_does_not_depend_on_devices_or_microbatches(devices, microbatches):
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(same, step_once(devices, microbatches), step_once(1, 1))


class Zero:
    """A network whose output is 0."""

    def clone(self, **settings):
        return self

    def apply(self, params, x, *arguments, **options):
        return jnp.zeros_like(x)


def test_the_loss_has_the_chosen_weighting_and_law_of_times():
    """The held-out loss has neither. The loss of a network with output 0 is the weighted mean square of the target."""
    settings = schema.Diffusion(
        batch_size=16,
        parameterization="v",
        weighting=schema.Weighting(name="min-snr", min_snr_gamma=3.0),
        times=schema.Times(law="logit-normal", mean=-0.5, std=0.7, stratified=True),
    )
    experiment = schema.Experiment(schedule=schema.Schedule(num_steps=50), diffusion=settings)
    run = runs.assemble(experiment, facts.Facts((4, 4, 1), 10, (0.1,) * 10))
    run = run._replace(networks=run.networks._replace(diffusion=Zero()))
    index = jnp.arange(4, 8)
    keys, x_0 = sampler.keys(jax.random.key(0), index), jax.random.normal(jax.random.key(1), (4, 4, 4, 1))
    batch = {"image": x_0, "label": jnp.arange(4), "index": index}

    def want(law, strata, weight):
        noisy = losses.corrupt(keys, x_0, run.model.levels, law, strata)
        each = jnp.mean(jax.vmap(losses.TARGETS["v"])(noisy.truth, noisy.level) ** 2, axis=(1, 2, 3))
        return (each if weight is None else weight(noisy.level) * each).mean()

    @jax.jit
    def losses_of():
        strata, law = times.Strata(index, 16), functools.partial(times.logit_normal, mean=-0.5, std=0.7)
        law_of_weight = functools.partial(weighting.min_snr, gamma=3.0)
        weight = functools.partial(weighting.of_loss, law_of_weight, target="v")
        trained, plain = (objective.diffusion_loss(run, plain)(None, keys, batch)[0] for plain in (False, True))
        wrong = [want(None, strata, weight), want(law, None, weight), want(law, strata, None)]
        return trained, want(law, strata, weight), plain, want(None, None, None), wrong

    trained, expected, plain, unweighted, wrong = losses_of()
    np.testing.assert_allclose(trained, expected, rtol=1e-6)
    np.testing.assert_allclose(plain, unweighted, rtol=1e-6)
    assert all(abs(other / expected - 1) > 0.01 for other in (*wrong, unweighted))  # each of the three has an effect


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"name": "min-snr", "min_snr_gamma": 3.0}, lambda snr, slope: np.minimum(snr, 3) / (snr + 1)),
        ({"name": "p2", "p2_gamma": 0.5, "p2_k": 2.0}, lambda snr, slope: snr / (snr + 1) / (2 + snr) ** 0.5),
        (
            {"name": "sigmoid", "sigmoid_bias": -1.0},
            lambda snr, slope: slope * snr / (snr + 1) / (1 + np.exp(np.log(snr) + 1)),
        ),
        ({"name": "edm", "sigma_data": 0.3}, lambda snr, slope: (snr + 1 / 0.3**2) / (snr + 1)),
    ],
    ids=["min-snr", "p2", "sigmoid", "edm"],
)
def test_every_weighting_follows_its_settings(settings, want):
    """On the loss of v, by the formulas of docs/training.md; sigmoid times the slope of -1/2 log SNR over t / T."""
    levels = schedule.cosine(50)
    inside = jax.tree.map(lambda column: column[1:-1], levels)  # the last level is clipped
    alpha, sigma = (np.asarray(column, np.float64) for column in (levels.alpha, levels.sigma))
    slope = -25 * np.gradient(2 * np.log(alpha[1:] / sigma[1:]))[:-1]
    snr = (alpha[1:-1] / sigma[1:-1]) ** 2
    found = schema.Weighting(**settings).make(levels, "v")(inside)
    np.testing.assert_allclose(found, want(snr, slope), rtol=1e-4)
