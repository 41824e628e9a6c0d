"""The schedulers of diffusers, by their config.json: recorded runs, met by the samplers of the library."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, forward, prediction, sampler, schedule
from guided_jax.prediction import Prediction
from guided_jax.pretrained.published import levels as tables
from guided_jax.pretrained.published import schedulers, steps
from tests import latent_golden as golden

META, ARRAYS, _ = golden.read("schedulers")
CASES = {case["key"]: case for case in META["cases"]}
every = pytest.mark.parametrize("key", CASES)
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0", "flow": "flow"}
# The model of the recorded runs, told a timestep.
MODELS = {
    "epsilon": lambda x, t: 0.7 * x + 0.2 * jnp.sin(x + t / 250),
    "v_prediction": lambda x, t: 0.3 * x + 0.5 * jnp.cos(2 * x - t / 300),
    "sample": lambda x, t: 0.8 * jnp.tanh(x) + 0.1 * jnp.sin(t / 200),
    "flow": lambda x, t: x - 0.6 * jnp.tanh(x) + 0.001 * t / 10,
}


def config_of(key):
    return {"_class_name": CASES[key]["cls"], **CASES[key]["config"]}


def recorded(key, name):
    return ARRAYS.get(f"{key}/{name}")


def levels_of(key):
    return schedulers.levels_of(config_of(key), CASES[key]["steps"])


def timestep(key, level):
    """What the network is told."""
    return level.t if CASES[key]["prediction"] == "flow" else level.t - 1


def in_ours(key, x, level):
    """x of the scheduler in the variable of its level: the Euler family's x_0 + (sigma / alpha) eps, times alpha."""
    return x * float(level.alpha) if CASES[key]["cls"] in schedulers.IN_SIGMA else x


def error(ours, reference):
    return float(np.abs(np.asarray(ours) - reference).max() / np.sqrt(np.mean(np.square(reference))))


def tolerance(key):
    return 5e-4 if CASES[key]["config"].get("rescale_betas_zero_snr") else 1e-4


@functools.cache
def run(key):
    """Return (x after each step, inputs of each call of the network, times of each call)."""
    case, levels, inputs, times = CASES[key], levels_of(key), [], []

    def network(x, time):
        inputs.append(x)
        times.append(float(time))
        return MODELS[case["prediction"]](x, time)

    denoise = denoiser.from_network(network, KINDS[case["prediction"]], time=lambda level: timestep(key, level))
    step = steps.make_step(config_of(key), case["steps"], case["step_kwargs"].get("eta", 0.0))
    first = schedule.at(levels, -1)
    x, after, noises = (
        in_ours(key, jnp.asarray(recorded(key, "x_T")), first),
        [],
        iter(() if recorded(key, "noises") is None else recorded(key, "noises")),
    )
    memory = step.init(x)
    with jax.disable_jit(), pytest.MonkeyPatch.context() as patch:  # so that the calls within a step are seen too
        patch.setattr(jax.random, "normal", lambda *_: jnp.asarray(next(noises)))
        for position in range(case["steps"], 0, -1):
            now, then = schedule.at(levels, position), schedule.at(levels, position - 1)
            x, memory = step.step(None, denoise, x, memory, now, then)
            after.append(x)
    return after, inputs, times


@every
def test_the_network_is_called_at_the_listed_timesteps(key):
    np.testing.assert_allclose(run(key)[2], recorded(key, "timesteps"), rtol=2e-6)


@pytest.mark.parametrize("key", [key for key in CASES if recorded(key, "sigmas") is not None])
def test_the_levels_have_the_listed_sigmas(key):
    """Of the Euler family, the solvers and flow matching, which list them with the last one; Heun repeats them."""
    sigmas, levels = recorded(key, "sigmas"), levels_of(key)
    flow = CASES[key]["prediction"] == "flow"
    found = np.asarray(levels.sigma if flow else schedule.noise_ratio(levels), np.float64)[::-1]
    found = np.repeat(found, 2)[1:-1] if key == "heun" else found
    assert error(found, sigmas) < 5e-6


@pytest.mark.parametrize("key", [key for key in CASES if recorded(key, "alphas_cumprod") is not None])
def test_the_table_has_the_recorded_alphas(key):
    wanted, found = recorded(key, "alphas_cumprod"), np.square(tables.of_scheduler(config_of(key)).alpha[1:])
    assert error(found, wanted) < 5e-6


@every
def test_the_model_is_given_the_recorded_inputs(key):
    inputs = run(key)[1]
    assert len(inputs) == CASES[key]["calls"]
    for found, wanted in zip(inputs, recorded(key, "model_inputs"), strict=True):
        assert error(found, wanted) < tolerance(key)


@every
def test_the_run_is_the_recorded_one(key):
    """x after each step: the last sample of each, where a step has two calls."""
    then = schedulers.visits(config_of(key), CASES[key]["steps"]).then
    samples = list(recorded(key, "samples"))
    if CASES[key]["cls"] == "PNDMScheduler":
        samples = samples[1:]
    if CASES[key]["cls"] == "HeunDiscreteScheduler":
        samples = [*samples[1:-1:2], samples[-1]]
    for i, (found, wanted) in enumerate(zip(run(key)[0], samples, strict=True)):
        assert error(found, in_ours(key, wanted, schedule.at(then, i))) < tolerance(key)


@every
def test_x_T_has_the_recorded_spread(key):
    case, levels = CASES[key], levels_of(key)
    found = schedulers.initial_std(config_of(key), case["steps"])
    assert found == pytest.approx(in_ours(key, case["init_noise_sigma"], schedule.at(levels, -1)), rel=5e-6)


@pytest.mark.parametrize("key", [key for key in CASES if recorded(key, "add_noise/x0") is not None])
def test_noise_is_added_as_recorded(key):
    """By a level of the run; by one of the table where the timestep is any, of DDIM and PNDM."""
    x_0, noise, t, wanted = (recorded(key, f"add_noise/{name}") for name in ("x0", "noise", "t", "out"))
    rows = CASES[key]["cls"] in schedulers.BY_ROWS
    levels = tables.of_scheduler(config_of(key)) if rows else levels_of(key)
    for i in range(len(t)):
        level = schedule.at(levels, int(np.argmin(np.abs(levels.t - 1 - t[i]))))
        clean, eps = jnp.asarray(x_0[i]), jnp.asarray(noise[i])
        assert float(level.t) - 1 == pytest.approx(float(t[i]), rel=2e-6)
        assert error(forward.diffuse(clean, eps, level), in_ours(key, wanted[i], level)) < tolerance(key)
        if (velocity := recorded(key, "velocity")) is not None:
            assert error(prediction.v(Prediction(clean, eps), level), velocity[i]) < tolerance(key)


@pytest.mark.parametrize("key", ["ddim_sample_clip_linspace", "pndm_sd", "unipc"])
def test_the_loop_of_the_library_is_the_run(key):
    """`sampler.run` of the two, compiled: where a step ends below the next level, and with a memory."""
    case, config = CASES[key], config_of(key)
    denoise = denoiser.from_network(MODELS[case["prediction"]], KINDS[case["prediction"]])
    step, levels = steps.make_step(config, case["steps"]), levels_of(key)
    x_0, _, inputs = sampler.run(jax.random.key(0), denoise, step, recorded(key, "x_T"), levels, lambda x, p, level: x)
    assert error(x_0, recorded(key, "samples")[-1]) < 1e-4
    assert error(inputs[-1], recorded(key, "model_inputs")[-1]) < 1e-4


BASE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BH1 = {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}
DPM = {"_class_name": "DPMSolverMultistepScheduler"}
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
REFUSED = [
    ({}, 5, "class is None; there is DDIMScheduler"),
    ({"_class_name": "KDPM2DiscreteScheduler"}, 5, "'KDPM2DiscreteScheduler'"),
    (BH1, 5, 'final_sigmas_type to "sigma_min"'),
    ({"_class_name": "PNDMScheduler"}, 5, "without skip_prk_steps"),
    ({**PNDM, "prediction_type": "sample"}, 5, "prediction_type sample"),
    ({**DPM, "algorithm_type": "dpmsolver"}, 5, "algorithm_type is 'dpmsolver'; there is dpmsolver"),
    ({**DPM, "use_lu_lambdas": True}, 5, "use_lu_lambdas is True, which is not supported; set it to False"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True}, 5, "use_karras_sigmas is True"),
    ({**DPM, "solver_order": 4}, 5, "order 4"),
    ({**DPM, "timestep_spacing": "even"}, 5, "timestep_spacing is 'even'"),
    ({**DPM, "timestep_spacing": "leading", "steps_offset": 600}, 2, "steps_offset is 600"),
    ({**PNDM, "timestep_spacing": "linspace"}, 7, "PNDM with linspace spacing, whose 7 steps do not follow"),
    ({"_class_name": "DDIMScheduler"}, 1001, "num_steps is 1001; give a number from 1 to 1000"),
]


@pytest.mark.parametrize(("config", "count", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_what_is_not_supported_is_said(config, count, words):
    with pytest.raises(ValueError, match=words):
        steps.make_step({**BASE, **config}, count), schedulers.levels_of({**BASE, **config}, count)


def test_settings_without_effect_are_taken():
    """As published files have them: null, the usual value, and what another class reads."""
    config = {**BASE, **DPM, "interpolation_type": "linear", "shift_terminal": None, "thresholding": None}
    assert len(schedulers.levels_of(config, 3).t) == 4
    steps.make_step({**config, "lambda_min_clipped": float("-inf")}, 3)
    ancestral = {**BASE, "_class_name": "EulerAncestralDiscreteScheduler"}
    for name, value in (("use_karras_sigmas", True), ("final_sigmas_type", "sigma_min")):
        found, plain = (schedulers.levels_of(each, 5) for each in ({**ancestral, name: value}, ancestral))
        np.testing.assert_array_equal(found.sigma, plain.sigma)
