"""Flow and score networks of the application: a U-Net that is exact makes the exact denoiser, on every schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import analytic, guidance, losses, sampler, schedule
from guided_jax.app import facts, nll, trained_model
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import draw, samplers
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method
from guided_jax.app.train import command as train
from guided_jax.app.train import objective
from tests.oracle import MIXTURE
from tests.scripts import run_script

SHAPE, NULL = (2, 1, 1), 2
PICTURES = MIXTURE._replace(means=MIXTURE.means.reshape(-1, *SHAPE))
OUTPUTS = {"score": lambda exact: -exact.eps, "flow": lambda exact: exact.eps - exact.x_0}  # of size 1


class Exact:
    """A U-Net that knows the law of the pictures: (x of size 1, t - 1, label) -> output of size 1."""

    def __init__(self, settings, output):
        self.levels, self.exploding, self.output = settings.make(), settings.exploding, OUTPUTS[output]

    def clone(self, **settings):
        return self

    def apply(self, params, x, t, label, low_res=None, dropout_keys=None):
        return jax.vmap(self.one)(x, t, label) if jnp.ndim(t) else self.one(x, t, label)

    def one(self, x, t, label):
        log_snr = jnp.interp(t + 1, self.levels.t[1:], schedule.log_snr_of(self.levels)[1:])
        level = schedule.interpolate(self.levels, log_snr)
        x_t = x * jnp.hypot(level.alpha, level.sigma) if self.exploding else x
        each = (PICTURES.denoiser(jnp.minimum(label, 1)), PICTURES.denoiser())
        return jnp.where(label == NULL, *(self.output(denoise(x_t, level)) for denoise in each[::-1]))


def run_of(name, output, **diffusion):
    """A run of the exact U-Net, on 40 levels."""
    settings = schema.Schedule(
        name=name, num_steps=40, **({"sigma_min": 0.02} if name in ("karras", "geometric") else {})
    )
    experiment = schema.Experiment(schedule=settings, diffusion=schema.Diffusion(parameterization=output, **diffusion))
    run = runs.assemble(experiment, facts.Facts(SHAPE, 2, (0.5, 0.5)))
    unet = Exact(settings, output)
    network = trained_model.make_network(experiment.diffusion, unet)
    known = {"networks": run.networks._replace(diffusion=unet), "prepare": lambda part, params: params}
    return run._replace(model=run.model._replace(network=network), **known)


CASES = [("flow", "flow"), ("cosine", "score"), ("karras", "flow"), ("geometric", "score")]


@pytest.mark.parametrize(
    ("name", "output"),
    [pytest.param(*case, marks=pytest.mark.slow) if case == ("cosine", "score") else case for case in CASES],
)
def test_an_exact_network_makes_the_exact_denoiser_and_has_its_loss(name, output):
    run = run_of(name, output)
    positions = jnp.array([1, 7, 20, 33, 40])
    keys, x_0 = sampler.keys(jax.random.key(0), jnp.arange(6)), jax.random.normal(jax.random.key(1), (6, *SHAPE))
    batch = {"image": x_0, "label": jnp.array([0, 1, 0, 1, 0, 1])}

    @jax.jit
    def compare():
        levels = schedule.at(run.model.levels, positions)
        x_t = jnp.hypot(levels.alpha, levels.sigma)[:, None, None, None] * x_0[:5]
        found = [jax.vmap(runs.make_denoiser(run, {}, label))(x_t, levels) for label in (0, NULL)]
        want = [jax.vmap(PICTURES.denoiser(label))(x_t, levels) for label in (0, None)]
        # Its own loss is that of the library on the exact outputs.
        loss = objective.diffusion_loss(run, plain=True)({}, keys, batch)[0]
        label = losses.drop(keys, batch["label"], jnp.int32(NULL), 0.15)
        exact = jax.vmap(lambda x, level, y: runs.make_denoiser(run, {}, y)(x, level))
        network = lambda x, level, y, keys: jax.vmap(losses.TARGETS[output])(exact(x, level, y), level)  # noqa: E731
        noisy = losses.corrupt(keys, x_0, run.model.levels)
        return found, want, loss, losses.denoising(network, noisy, label, run.model.levels, output, lambda each: each)

    found, want, loss, each = compare()
    alpha = np.asarray(run.model.levels.alpha)[np.asarray(positions), None, None, None]
    for got, exact in zip(found, want, strict=True):
        np.testing.assert_allclose(got.eps, exact.eps, atol=1e-3)
        np.testing.assert_allclose(alpha * got.x_0, alpha * exact.x_0, atol=1e-3 * max(1, run.model.levels.sigma[-1]))
    np.testing.assert_allclose(loss, each.mean(), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "schedule_name", "output"),
    [
        ("heun", "flow", "flow"),
        ("dpm++", "geometric", "score"),
        pytest.param("dpm++", "flow", "flow", marks=pytest.mark.slow),
        pytest.param("heun", "geometric", "score", marks=pytest.mark.slow),
    ],
)
def test_a_guided_sample_is_that_of_the_exact_denoisers(name, schedule_name, output):
    """Classifier-free guidance by the method of the command, from pure noise on and from sigma_max on."""
    run, method = run_of(schedule_name, output), Method("classifier-free", sampler=name, steps="6", clip=False)
    levels, step = samplers.levels_of(method, run.model.levels), samplers.make_step(method, run.model.levels)

    drawn = draw.make_draw(run, method, True)

    @jax.jit
    def both(key):
        found = drawn({"diffusion": {}}, key, 1, 1.8)
        key_noise, key_run, _ = jax.random.split(key, 3)
        x_T = levels.sigma[-1] * jax.random.normal(key_noise, SHAPE)
        guided = guidance.classifier_free(PICTURES.denoiser(1), PICTURES.denoiser(), 1.8)
        return found, sampler.sample(key_run, guided, step, x_T, levels)

    found, want = both(jax.random.key(3))
    np.testing.assert_allclose(found, want, atol=5e-3)
    assert np.abs(want).max() > 0.1


def test_a_learned_variance_is_not_scaled():
    """Of a score network with as many channels again: the mean is divided by sigma, the variance is not."""

    class Twice:
        def apply(self, params, x, t, label, low_res):
            return jnp.concatenate([x, 0.3 * jnp.ones_like(x)], -1)

    settings = schema.Diffusion(parameterization="score", learned_variance=True)
    network, x = trained_model.make_network(settings, Twice()), jnp.ones((2, 1, 3))
    output = network({}, x, schedule.at(schedule.karras(1, 15**0.5, 15**0.5), 1), 0)
    np.testing.assert_allclose(output[..., :3], 0.25 / np.sqrt(15), rtol=1e-6)
    np.testing.assert_allclose(output[..., 3:], 0.3, rtol=1e-6)


@pytest.mark.parametrize(("name", "power"), [("cosine", 1.0), ("flow", 1.0), ("karras", 80.0)])
def test_the_noisy_classifier_sees_what_the_network_sees(name, power):
    """x_t / sqrt(1 + sigma^2) of a VE schedule, x_t itself of any other, in training and in sampling."""

    class Seen:
        def clone(self, **settings):
            return self

        def apply(self, params, x, t, dropout_keys=None):
            return jnp.stack([x.mean((-3, -2, -1)), jnp.asarray(t)], -1)

    experiment = schema.Experiment(
        schedule=schema.Schedule(name=name), diffusion=schema.Diffusion(parameterization="flow")
    )
    level = schedule.at(experiment.schedule.make(), -1)
    seen = trained_model.make_logits(experiment, Seen())({}, 160 * jnp.ones(SHAPE), level)
    np.testing.assert_allclose(seen, [160 / power, 999], rtol=2e-4)
    trained = trained_model.make_training_classifier(experiment.classifier, Seen(), dropout=False)
    column = jax.tree.map(lambda part: part[None], level)
    batch = trained({}, 160 * jnp.ones((1, *SHAPE)), trained_model.make_time(experiment)(column), None)
    np.testing.assert_allclose(batch, seen[None], rtol=1e-6)


def test_a_classifier_of_clean_pictures_is_the_noisy_one_at_the_first_level():
    """Its own sigma too, by which a VE schedule scales what the classifier sees: off-the-shelf and universal guidance."""
    run = run_of("karras", "flow")
    logits = lambda params, x, level: jnp.stack([PICTURES.log_prob(y)(x, level) for y in (0, 1)])  # noqa: E731
    parts = Parts(run._replace(classifier=logits), Method("universal"), {"classifier": None}, label=1)
    x_0, levels = jnp.array([0.1, -0.2]).reshape(SHAPE), run.model.levels
    found = parts.clean_log_prob(x_0, schedule.at(levels, 30))
    np.testing.assert_allclose(found, PICTURES.log_prob(1)(x_0, schedule.at(levels, 1)), rtol=1e-5)


def test_networks_of_the_usual_schedules_are_called_as_ever():
    """With t - 1, and x itself: nothing multiplies it, not even by 1."""
    x, level = jnp.ones(3), schedule.at(schedule.cosine(10), 4)
    for predicts in ("eps", "x_0", "v", "flow"):
        time = trained_model.make_time(schema.Experiment(diffusion=schema.Diffusion(parameterization=predicts)))(level)
        same, step = trained_model.scale_input(x, time)
        assert same is x
        assert float(step) == 3
        assert trained_model.scale_output(schema.Diffusion(parameterization=predicts), x, time) is x


KINDS = {"flow": schedule.flow(1000), "VE": schedule.karras(1000, 0.002, 80.0)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["bound", pytest.param("flow", marks=pytest.mark.slow)])
def test_bits_per_dimension_of_both_kinds_are_those_of_the_law(kind, by, tmp_path):
    """A normal law's own entropy, of grey values, by the flow; the bound is looser where sigma grows fast near the data."""
    std, shape = 0.5, (2, 2, 1)
    law = analytic.GaussianMixture((1.0,), np.zeros((1, *shape)), (std,))
    run = run_of("cosine", "flow")
    run = run._replace(model=run.model._replace(levels=KINDS[kind]))
    options = {"flow": nll.Nll(tmp_path, by="flow", steps="16"), "bound": nll.Nll(tmp_path, variance="large")}
    measure = getattr(nll, f"by_{by}")(options[by], run, lambda params, label, x_0: law.denoiser())

    @jax.jit
    @jax.vmap
    def excess(key):
        x_0 = jnp.clip(jnp.round((law.sample(key) + 1) * 127.5) / 127.5 - 1, -1, 1)
        density = jnp.mean(x_0**2) / (2 * std**2) + jnp.log(2 * jnp.pi * std**2) / 2
        return measure(None, key, x_0, None)["bits"] - density / jnp.log(2) - nll.GREY

    mean = float(jnp.mean(excess(jax.random.split(jax.random.key(0), 128))))
    assert abs(mean) < 0.02 if by == "flow" else -0.2 < mean < {"flow": 1.0, "VE": 0.1}[kind]


def test_every_schedule_has_its_levels():
    """By its name, with the numbers that are given."""
    ends = {"sigma_min": 0.01, "sigma_max": 50.0}
    wanted = {
        "linear": ({}, schedule.linear(100)),
        "sigmoid": ({}, schedule.sigmoid(100)),
        "flow": ({}, schedule.flow(100)),
        "karras": ({**ends, "rho": 3.0}, schedule.karras(100, 0.01, 50.0, 3.0)),
        "geometric": (
            ends,
            schedule.NoiseLevel(np.arange(101), np.ones(101), np.append(0, np.geomspace(0.01, 50, 100))),
        ),
        "cosine": ({"zero_terminal_snr": True}, schedule.zero_terminal_snr(schedule.cosine(100))),
    }
    for name, (settings, levels) in wanted.items():
        found = schema.Schedule(name=name, num_steps=100, **settings).make()
        np.testing.assert_allclose(np.stack(found), np.stack(levels), rtol=1e-6, err_msg=name)


FLOW, KARRAS = ["--schedule.name", "flow"], ["--schedule.name", "karras"]
PREDICTS = "--diffusion.parameterization"
WRONG = {
    "--schedule.name flow ends at alpha = 0, where an eps network says nothing of x_0; use --diffusion.parameterization "
    "flow, v or x_0": FLOW,
    "--schedule.name flow ends at alpha = 0, where a score network says nothing of x_0": [*FLOW, PREDICTS, "score"],
    "--diffusion.parameterization is score, which says nothing of x_0 at the end of --schedule.zero-terminal-snr": [
        *(PREDICTS, "score", "--schedule.zero-terminal-snr")
    ],
    "--schedule.name linear of 20 steps ends at alpha = 0, where a score network": [
        *(PREDICTS, "score", "--schedule.name", "linear", "--schedule.num-steps", "20")
    ],
    "--diffusion.parameterization is v, which is as large as sigma, up to 80 with --schedule.name karras; use score": [
        *(*KARRAS, PREDICTS, "v")
    ],
    "--schedule.zero-terminal-snr rescales linear, cosine or sigmoid, and --schedule.name is flow": [
        *(*FLOW, PREDICTS, "flow", "--schedule.zero-terminal-snr")
    ],
    "--schedule.sigma-max has no effect with --schedule.name cosine; it goes with karras or geometric": [
        *("--schedule.sigma-max", "50")
    ],
    "--schedule.rho has no effect with --schedule.name geometric; it goes with karras": [
        *("--schedule.name", "geometric", "--schedule.rho", "5")
    ],
    "--schedule.sigma-min is 90 and --schedule.sigma-max 80; give a first level below the last one": [
        *(*KARRAS, "--schedule.sigma-min", "90")
    ],
    "--schedule.sigma-min is 0.0; give a number from 1e-06 to 1000000": [*KARRAS, "--schedule.sigma-min", "0"],
    "--schedule.rho is 0.5; give a number from 1 to 100": [*KARRAS, "--schedule.rho", "0.5"],
    "--diffusion.weighting.name edm grows without bound towards noise on the loss of a score network; use "
    "--diffusion.parameterization flow": [*KARRAS, PREDICTS, "score", "--diffusion.weighting.name", "edm"],
}


@pytest.mark.parametrize(("said", "words"), WRONG.items(), ids=map(" ".join, WRONG.values()))
def test_what_cannot_be_learned_is_refused_in_one_sentence(tmp_path, capsys, said, words):
    code, _, err = run_script(train.main, ["digits", "--out", tmp_path / "run", *words], capsys)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert said in err
    assert not list(tmp_path.iterdir())
