"""`guided-jax sample --particles`: the laws that it draws, what it says of its clouds, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import certificate, sampler
from guided_jax.app.certify import plane
from guided_jax.app.sample import clouds, draw, parts, resolve, targets
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.request import Method, Sampling
from guided_jax.app.sample.sections import Measurement
from guided_jax.storage import images
from tests import oracle
from tests.oracle import BROAD, NARROW, SDE
from tests.scripts import run_script

PARAMS = {"diffusion": {}, "classifier": {}}
SEEN = jnp.array([[[0.7], [0.0]]])  # the first coordinate of two


@pytest.fixture(scope="module")
def run():
    return plane.make_run()


@pytest.fixture(scope="module")
def normal(run):
    """The same run with p = N(0, 2) and p(. | c) = N(0, 1), of each element."""

    def network(params, x, level, condition):
        u, c = (each.denoiser()(x, level).x_0 for each in (BROAD, NARROW))
        return jnp.where(condition == plane.CLASSES, u, c)

    return run._replace(model=run.model._replace(network=network))


def drawn(run, method, scales, indices, pictures=draw.NONE):
    """Return (x_0 (count, 2), numbers of the clouds) of the class 0 of the mixture, for each index and its scale."""
    one = draw.make_draw(run, method, labelled=True)
    together = jax.jit(jax.vmap(lambda key, scale: one(PARAMS, key, jnp.int32(0), scale, pictures)))
    found = together(sampler.keys(jax.random.key(0), indices), jnp.asarray(scales, jnp.float32))
    x_0, numbers = found if isinstance(found, tuple) else (found, None)
    return np.asarray(x_0).reshape(-1, 2), numbers


def test_the_sharpened_law_is_drawn_itself(normal):
    """p = N(0, 2) and p(. | c) = N(0, 1): 2 / (1 + g), where ddpm alone ends at .388. At scale 1 all weights are equal."""
    method = Method("classifier-free", particles=16, steps="50", variance="large")
    samples, numbers = drawn(normal, method, np.repeat([3.0, 1.0], [1500, 100]), np.arange(1600))
    variance = np.square(samples[:1500]).mean()
    np.testing.assert_allclose(variance, 2 / (1 + 3), rtol=0.08)
    assert SDE(3) < 0.39
    assert numbers["ess"].shape == (1600, 50)
    assert numbers["ess"][:1500].min() < 10
    np.testing.assert_allclose(numbers["ess"][1500:], 16, rtol=1e-3)
    np.testing.assert_allclose(numbers["log_evidence"][1500:], 0, atol=1e-3)


@pytest.mark.parametrize("mask", [pytest.param((), marks=pytest.mark.slow), ("holes.png",)])
def test_a_posterior_and_its_evidence(run, mask):
    """Of the first coordinate: a hidden one is no part of y, whether all samples share the hole or each has its own."""
    method = Method("mmps", particles=32, steps="40", measurement=Measurement(("one",), mask=mask, noise_std=0.3))
    pictures = parts.Pictures(y=SEEN, observed=jnp.array([[[1.0], [0.0]]]) if mask else None)
    samples, numbers = drawn(run, method, np.ones(100), np.arange(100), pictures)
    own = certificate.PLANE.labels == 0
    prior = type(certificate.PLANE)(*(jnp.asarray(column[own]) for column in certificate.PLANE[:3]))
    matrix, y = jnp.array([[1.0, 0.0]]), jnp.array([0.7])
    evidence = np.asarray(numbers["log_evidence"])
    assert abs(np.log(np.exp(evidence).mean()) - prior.evidence(matrix, y, 0.3)) < 0.1
    posterior = prior.posterior(matrix, y, 0.3)
    np.testing.assert_allclose(samples.mean(0), posterior.weights @ posterior.means, atol=0.15)


@pytest.mark.slow  # in the fast suite rewards steer clouds in tests/particles, and the command draws by one below
def test_one_particle_has_no_choice(run):
    """A reward moves nothing, and so a cloud of one is drawn without guidance, bit for bit; one of eight is not."""
    scales = np.repeat([0.0, 5.0], 20)
    found, _ = drawn(run, Method("off-the-shelf", particles=1, steps="10"), scales, np.tile(np.arange(20), 2))
    one, two = found.reshape(2, 20, 2)
    np.testing.assert_array_equal(one, two)
    steered, numbers = drawn(run, Method("off-the-shelf", particles=8, steps="10"), scales[20:], np.arange(20))
    label = lambda x: np.argmin(np.square(x[:, None] - certificate.MODES).sum(-1), axis=1) % 2  # noqa: E731
    assert label(steered).mean() < label(one).mean() / 2
    assert np.all(numbers["ess"] >= 1 - 1e-5)


def test_a_sample_is_kept_by_its_weight(run, monkeypatch):
    """And not the first one; the cloud that could not be weighed is none."""
    weights = jnp.log(jnp.array([0.1, 0.7, 0.2]))
    cloud = lambda *given, chunk: clouds.particles.Cloud(jnp.arange(3.0), weights, given[3][0] * 1.0, jnp.ones(2))  # noqa: E731
    monkeypatch.setattr(clouds.particles, "sample", cloud)
    recipe = resolve.resolve(Method("classifier-free", particles=3, steps="2"), run)._replace(
        target=lambda parts: (None, None)
    )
    given = parts.Parts(run, Method(particles=3), PARAMS)
    for value in (0.0, jnp.nan):
        begin = lambda key, value=value: jnp.asarray(value)  # noqa: E731
        found = jax.vmap(lambda key, begin=begin: clouds.draw(key, recipe, given, begin, None)[0])(
            jax.random.split(jax.random.key(0), 2000)
        )
        if value == 0:
            np.testing.assert_allclose(np.bincount(np.asarray(found, int)) / 2000, jnp.exp(weights), atol=0.04)
    assert np.isnan(found).all()


def test_a_clip_lets_the_gradient_through(run):
    own = run._replace(bounded=True, bound=0.5)
    given = parts.Parts(own, Method(), PARAMS)
    denoise = given.model(0)
    level = draw.schedule.at(own.model.levels, 300)
    x = jnp.array([[[2.0], [-0.1]]])
    within, plain = targets.bounded(given, denoise), jax.jit(denoise)(x, level).x_0
    assert np.abs(plain).max() > 0.5
    np.testing.assert_array_equal(jax.jit(within)(x, level).x_0, jnp.clip(plain, -0.5, 0.5))
    slopes = jax.jit(lambda x: [jax.jacrev(lambda x, d=d: d(x, level).x_0)(x) for d in (within, denoise)])(x)
    np.testing.assert_allclose(*slopes, rtol=1e-5)
    assert targets.bounded(given._replace(request=Method(clip=False)), denoise) is denoise


SHORT = ["--guidance", "off-the-shelf", "--particles", 3, "--steps", 3, "--num-samples", 3, "--scale", 2]


def test_gibbs_like_guidance_by_name(normal):
    """Repeats from the noise of .5 end at v = s^2 F^2 / (1 - F^2), F that of the flow; the conditional model alone at 1."""
    method = Method("gibbs-like", renoise=0.5, steps="12", measurement=Measurement(calls=8, repeats=12))
    samples, _ = drawn(normal, method, np.full(2000, 3.0), np.arange(2000))
    np.testing.assert_allclose(np.square(samples).mean(), oracle.gibbs_like(3.0, 0.5), rtol=0.08)


def check_drawn(tiny, out, capsys, size):
    """Draw three clouds in batches of a size, check what the command says of them, and return the pictures."""
    words = [tiny, *SHORT, "--batch-size", size, "--out", out, "--diagnose"]
    code, printed, err = run_script(sample.main, words, capsys)
    assert code == 0, err
    assert "3 clouds of 3 particles: on average an effective size of " in printed
    ess = np.load(out / "diagnostics.npz")["ess"]
    assert ess.shape[1:] == (3,)
    assert np.all((ess > 0.99) & (ess < 3.01))
    return images.load_npz(out / "samples.npz")[0].astype(int)


def test_the_command_draws_and_says_how_well(tiny, tmp_path, capsys):
    check_drawn(tiny, tmp_path / "out", capsys, size=2)


@pytest.mark.slow  # in the fast suite of `particles.sample` itself: tests/particles, by chunk
def test_clouds_whole_and_in_parts_are_the_same_pictures(tiny, tmp_path, capsys):
    one, other = (check_drawn(tiny, tmp_path / str(size), capsys, size) for size in (6, 2))
    assert np.abs(one - other).max() <= 1


def test_a_batch_holds_whole_clouds_or_a_part_of_one():
    assert (clouds.samples_at_once(asked(size=6)), clouds.chunk_of(asked(size=6))) == (2, None)
    assert (clouds.samples_at_once(asked(size=2)), clouds.chunk_of(asked(size=2))) == (1, 2)


def asked(size):
    return Sampling(None, Method("off-the-shelf", particles=3), batch_size=size)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--guidance", "projected"],
            "--particles draws the law of classifier, off-the-shelf, universal, clip, classifier-free, mmps",
        ),
        ([], "and none names none; use one of these"),
        (["--guidance", "classifier-free+interval"], "which +interval changes; leave it out"),
        (["--guidance", "classifier-free", "--sampler", "ddim"], "--sampler ddim says none; use ddpm, or ddim"),
        (["--guidance", "classifier-free", "--sampler", "heun"], "--sampler heun says none"),
        (["--guidance", "universal", "--image", "held-out"], "--image has no effect with --particles"),
        (["--guidance", "universal", "--clip-base"], "--clip-base has no effect with --particles"),
        (["--guidance", "mmps", "--measure", "held-out"], "give --noise-std above 0, such as 0.05"),
        (["--guidance", "mmps", "--scale", 2], "--scale has no effect with --guidance mmps"),
        (
            ["--guidance", "mmps", "--measure", "held-out", "--noise-std", 0.1, "--iterations", 3],
            "--iterations has no effect with --particles",
        ),
        (["--guidance", "universal", "--particles", 0], "--particles is 0; give at least 1"),
        (["--guidance", "classifier", "--sampler", "ddpm", "--at", "mean"], "--at has no effect here"),
    ],
)
def test_wrong_use_is_one_sentence(tiny, capsys, words, says):
    code, _, err = run_script(sample.main, [tiny, "--particles", 4, *words], capsys)
    assert (code, says in err) == (2, True), err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--renoise", 1e-6], "--renoise is 1e-06; the table's first noisy level is"),
        (["--diagnose"], "--diagnose shows one run down the levels, and gibbs-like has several"),
        (["--particles", 2], "and gibbs-like names none"),
    ],
)
def test_wrong_use_of_gibbs_like_is_one_sentence(tiny, capsys, words, says):
    code, _, err = run_script(sample.main, [tiny, "--guidance", "gibbs-like", *words], capsys)
    assert (code, says in err) == (2, True), err


def test_a_measurement_of_many_numbers_is_refused(run):
    side = (64, 64, 1)
    many = run._replace(facts=run.facts._replace(image_shape=side), model=run.model._replace(shape=side))
    method = Method("mmps", particles=2, measurement=Measurement(("one",), hole="left", noise_std=0.1))
    with pytest.raises(ValueError, match="for each of 2048 measured numbers, at most 1024"):
        clouds.check(method, many)
    with pytest.raises(ValueError, match="without its last x_0"):
        clouds.check(Method("universal", particles=2), run._replace(self_conditioning=True))
