"""OpenAI's recorded sampling runs, network and classifier included, through the library's own functions.

Left out: rows of the mean type "previous_x" and the variance type "learned", which none of its flags reaches.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, forward, guidance, reverse, schedule
from guided_jax.prediction import Prediction
from guided_jax.pretrained import adm
from guided_jax.storage import images
from tests.reverse.test_reverse import VARIANCES, close, nhwc

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LOOPS, STEPS, TIMES = (
    np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    for name in ("net_loops", "p_mean_variance", "respaced_model_ts")
)
META = json.loads(str(LOOPS["meta"]))
QUICK = ("ddpm_guided",)  # the others are parts of these


def levels_of(case):
    levels = {"linear": schedule.linear, "cosine": schedule.cosine}[case["schedule"]](case["steps"])
    return schedule.respace(levels, case["respacing"]) if case.get("respacing") else levels


def time_of(case):
    stretch = 1000 / case["steps"] if case.get("rescale_timesteps") else 1.0
    return lambda level: (level.t - 1) * stretch


def network(part, prefix):
    state = {key.removeprefix(prefix): LOOPS[key] for key in LOOPS.files if key.startswith(prefix)}
    load = {"unet": adm.load_unet, "classifier": adm.load_classifier}[part]
    return load(META[f"{part}_config"], state)


@pytest.fixture(scope="module")
def networks():
    return network("unet", "sd/"), network("classifier", "sd_classifier/")


def prepared(case, networks, y):
    """(step, denoiser) of a recorded case: what its flags stand for here."""
    (unet, params), (classifier, classifier_params) = networks
    time = time_of(case)
    view = {"epsilon": "eps", "start_x": "x_0"}[case["mean"]]
    denoise = denoiser.from_network(lambda x, t: unet.apply(params, x, t, y), view, learned_variance=True, time=time)
    denoise = guidance.clip(denoise) if case.get("clip", True) else denoise

    def log_prob(x, level):
        return jax.nn.log_softmax(classifier.apply(classifier_params, x, time(level)))[y]

    if case["sampler"] == "ddpm":
        plain, variance = case["scale"] is None, VARIANCES[case["var"]]
        return (
            reverse.ddpm(variance) if plain else reverse.classifier_ddpm(log_prob, case["scale"], "x_t", variance)
        ), denoise
    guided = denoise if case["scale"] is None else guidance.classifier(denoise, log_prob, case["scale"])
    return reverse.ddim(case["eta"]), guided


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c["key"] in QUICK else pytest.mark.slow, id=c["key"]) for c in META["cases"]],
)
def test_a_run_is_adms_to_the_last_grey_value(case, networks, monkeypatch):
    """Each step from its own recorded x_t to the recorded x_s with the recorded noise; then the picture as it is stored."""
    key, levels = case["key"], levels_of(case)
    count = case["num_timesteps"]

    def once(x, memory, noise, y, position):
        monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: noise)
        step, denoise = prepared(case, networks, y)
        now, then = schedule.at(levels, position), schedule.at(levels, position - 1)
        return step.step(jax.random.key(0), denoise, x, memory, now, then)

    once = jax.jit(once)
    times = np.asarray([time_of(case)(schedule.at(levels, position)) for position in range(count, 0, -1)])
    np.testing.assert_allclose(times, LOOPS[f"{key}/model_ts"][:, 0], rtol=1e-6)
    for item, y in enumerate(LOOPS[f"{key}/y"].astype(int)):
        x, memory = nhwc(LOOPS[f"{key}/x_T"][item]), jnp.zeros(())
        for i in range(count):
            x, memory = once(x, memory, nhwc(LOOPS[f"{key}/noises"][i][item]), y, count - i)
            close(x, nhwc(LOOPS[f"{key}/samples"][i][item]), 2e-3)
        difference = images.to_uint8(x).astype(int) - LOOPS[f"{key}/uint8_nhwc"][item].astype(int)
        assert np.abs(difference).max() <= 1
        assert np.mean(difference != 0) < 0.02


@pytest.mark.slow
def test_encoding_is_adms_reverse_loop(networks):
    case = META["reverse"] | {"sampler": "ddim", "eta": 0.0, "scale": None}
    levels = levels_of(case)
    up = jax.jit(
        lambda x, now, then, y: reverse.ddim().step(
            jax.random.key(0), prepared(case, networks, y)[1], x, (), now, then
        )[0]
    )
    pure = schedule.NoiseLevel(jnp.float32(1001), jnp.float32(0), jnp.float32(1))
    for item, y in enumerate(LOOPS["reverse/y"].astype(int)):
        x = nhwc(LOOPS["reverse/x0"][item])
        for position in range(1, len(levels.t)):
            then = schedule.at(levels, position + 1) if position + 1 < len(levels.t) else pure
            x = up(x, schedule.at(levels, position), then, y)
            close(x, nhwc(LOOPS["reverse/samples"][position - 1][item]), 2e-3)


@pytest.mark.parametrize("case", json.loads(str(TIMES["meta"]))["cases"], ids=lambda case: case["key"])
def test_the_times_of_the_network_are_adms(case):
    levels, time = levels_of(case), time_of(case)
    times = np.asarray(time(schedule.NoiseLevel(*(column[1:] for column in levels))))
    np.testing.assert_allclose(
        times[TIMES[f"{case['key']}/t"].astype(int)], TIMES[f"{case['key']}/model_ts"], rtol=1e-6
    )


BASES = json.loads(str(STEPS["meta"]))["bases"]
KINDS = [(mean, var) for mean in ("start_x", "epsilon") for var in ("fixed_small", "fixed_large", "learned_range")]


@pytest.mark.parametrize("base", BASES, ids=lambda base: base["key"])
@pytest.mark.parametrize(("mean", "var"), KINDS)
def test_the_mean_and_the_variance_of_a_step_are_adms(base, mean, var):
    levels, key = levels_of(base), base["key"]
    options = {
        "clip": guidance.clip,
        "noclip": lambda denoise: denoise,
        "denoised_fn": lambda denoise: guidance.clip(moved(denoise)),
    }
    rule = reverse.ancestral.variance_of(VARIANCES[var])
    for item, t in enumerate(STEPS[f"{key}/t"].astype(int)):
        x, output = nhwc(STEPS[f"{key}/x"][item]), nhwc(STEPS[f"{key}/model_output"][item])
        output = output if var == "learned_range" else jnp.split(output, 2, -1)[0]
        now, then = schedule.at(levels, t + 1), schedule.at(levels, t)
        before = schedule.at(levels, min(t + 2, len(levels.t) - 1))
        previous = forward.posterior(x, x, before, now).variance
        for name, wrap in options.items():
            view = {"epsilon": "eps", "start_x": "x_0"}[mean]
            net = denoiser.from_network(lambda x, t, o=output: o, view, learned_variance=var == "learned_range")
            prediction = wrap(net)(x, now)
            found, small = forward.posterior(x, prediction.x_0, now, then)
            want = lambda what, row=f"{key}/{mean}/{var}/{name}", i=item: nhwc(STEPS[f"{row}/{what}"][i])  # noqa: E731
            close(prediction.x_0, want("pred_xstart"), 3e-4)
            close(found, want("mean"), 3e-4)
            variance = jnp.broadcast_to(rule(prediction, now, then, small, previous), x.shape)
            if t > 0:  # into the clean level no noise is drawn
                np.testing.assert_allclose(variance, want("variance"), rtol=2e-3)


def moved(denoise):
    """The recorded denoised_fn."""

    def wrapped(x_t, level):
        prediction = denoise(x_t, level)
        return Prediction(0.5 * prediction.x_0 + 0.75, prediction.eps, prediction.variance_fraction)

    return wrapped
