"""The tables that the benchmarks draw into the documents have the right values and a place in their pages."""

import dataclasses
import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks import (
    chips,
    emoji,
    fewer_calls,
    measured,
    mixture,
    restoration_pages,
    results,
    sampler_pages,
    samplers,
    training_free,
    tricks,
)
from benchmarks.posteriors import __main__ as posteriors
from benchmarks.posteriors import levy, mixtures, walks
from benchmarks.posteriors import pages as posterior_pages
from benchmarks.posteriors.laws import LAWS, LENGTH
from benchmarks.speed import __main__ as speed
from benchmarks.speed import sizes
from guided_jax import data, schedule
from guided_jax.app.demo import comparison
from guided_jax.app.sweep import page

MEASURED = json.loads((mixture.OUT / "samplers.json").read_text())
SAMPLERS = {
    "flow, cosine": sampler_pages.flow_table(MEASURED["flow"], "cosine"),
    "flow, linear": sampler_pages.flow_table(MEASURED["flow"], "linear"),
    "law": sampler_pages.law_table(MEASURED["law"]),
    "digits": sampler_pages.digits_table(MEASURED["digits"]),
    "quality": sampler_pages.quality_table(MEASURED["quality"]),
}
POSTERIORS = posterior_pages.tables(measured.known_rows(mixture.OUT / posteriors.FILE))


@pytest.mark.parametrize(
    ("page", "tables"),
    [(sampler_pages.PAGE, SAMPLERS), (posterior_pages.PAGE, POSTERIORS)],
    ids=["samplers", "posteriors"],
)
def test_the_tables_are_those_of_the_measurements(page, tables):
    text = page.read_text()
    assert measured.fill(text, tables) == text


PLACES = [
    (sampler_pages.PAGE, [*SAMPLERS, "fewer calls", "fewer calls, error"]),
    (tricks.PAGE, ["tricks, scale 1", "tricks, scale 2"]),
    (results.DOCS / "results.md", [*results.SWEEPS, "levels"]),
    (
        sampler_pages.PAGE.parent / speed.PAGE.name,
        [
            "first",
            "memory",
            "peers",
            "growth",
            "accelerator",
            *(f"{part}, {each}" for part in ("machine", "operations") for each in ("cpu", "gpu")),
        ],
    ),
    (training_free.PAGE, ["training-free"]),
    (chips.PAGE, ["chips"]),
    (restoration_pages.PAGE, [f"restoration, {run}" for run in ("digits", "fashion_mnist", "emoji")]),
    (posterior_pages.PAGE, list(POSTERIORS)),
    (emoji.PAGE, ["emoji", "emoji, levels", "emoji, tuned"]),
]


@pytest.mark.parametrize(("place", "names"), PLACES, ids=[place.name for place, _ in PLACES])
def test_every_table_has_one_place_in_its_page(place, names):
    text = place.read_text()
    for name in names:
        assert text.count(f"<!-- measured: {name} -->") == 1
        assert "the new table" in measured.fill(text, {name: "the new table"})
    assert text.count("<!-- measured: ") == text.count("<!-- end -->") >= len(names)


def test_a_table_without_a_place_is_an_error_that_names_its_mark():
    with pytest.raises(ValueError, match="no mark <!-- measured: absent -->"):
        measured.fill("<!-- measured: there -->\n<!-- end -->", {"absent": ""})


def test_every_timing_of_the_page_is_one_that_the_benchmark_measures():
    text = (sampler_pages.PAGE.parent / speed.PAGE.name).read_text()
    timings = {f"{size}, {job}" for size in sizes.SIZES for job in sizes.jobs(sizes.SIZES[size])}
    named = set(re.findall(r"<!-- measured: (.*) -->", text)) - set(PLACES[3][1])
    assert named <= timings
    assert len(named) >= 9


def test_the_flow_table_has_the_errors_at_15_calls_and_the_least_of_a_row_in_bold():
    common = {"table": "cosine", "sampler": "ddim"}
    rows = [
        {**common, "grid": grid, "scale": scale, "calls": calls, "rms": rms}
        for grid, scale, calls, rms in (
            ("respaced", 1.0, 15, 0.0584),
            ("respaced", 3.0, 15, 0.2),
            ("log-snr", 1.0, 15, 0.11),
            ("log-snr", 3.0, 15, 0.1),
            ("log-snr", 1.0, 10, 0.001),  # at other calls
        )
    ]
    rows.append({**common, "table": "linear", "grid": "respaced", "scale": 1.0, "calls": 15, "rms": 0.5})
    table = sampler_pages.flow_table(rows, "cosine").splitlines()
    assert table[0] == "| sampler | respaced | log-snr |"
    assert table[2:] == ["| `ddim` | **0.058** / 0.2 | 0.11 / **0.1** |"]


def test_the_law_table_has_the_best_grid_that_the_calls_pay_for():
    rows = [{"sampler": "exact", "distances": [0.02, 0.04]}]
    rows += [
        {"sampler": "ddpm", "grid": grid, "calls": calls, "distances": distances}
        for grid, calls, distances in (
            ("respaced", 10, [0.1, 0.2]),
            ("quadratic", 10, [0.1, 0.1]),
            ("karras", 9, [0.01, 0.01]),  # fewer calls than the budget pays for
            ("respaced", 40, [0.05, 0.05]),  # for 50 calls: more than three quarters of them are used
        )
    ]
    table = sampler_pages.law_table(rows).splitlines()
    assert table[2] == "| `ddpm` | 0.100 quadratic |  | 0.050 respaced |  |"
    assert table[3] == "| exact samples | 0.030 | at most 0.040 |  |  |"


def test_the_quality_table_has_accuracy_and_distance_and_the_reference_with_its_spread():
    rows = [
        {"guidance": "classifier", "sampler": "ddpm", "grid": "respaced", "steps": 250, "calls": 250}
        | {"accuracy": 0.982, "distance": 53.4, "blocks": [60.0, 52.0]},
        {"guidance": "classifier", "sampler": "heun", "grid": "karras", "steps": 5, "calls": 9}
        | {"accuracy": 0.148, "distance": 1135.2, "blocks": [1.0, 1.0]},
    ]
    table = sampler_pages.quality_table(rows).splitlines()
    assert table[2] == "| classifier | `ddpm`, 250 steps |  |  |  |  |  |  | 0.982, 53 ± 4 |"
    assert table[3] == "| classifier | `heun`, karras |  |  | 0.148, 1135 |  |  |  |  |"


def test_the_digits_table_has_the_errors_at_15_calls_and_the_least_of_a_row_in_bold():
    common = {"guidance": "classifier", "sampler": "ddim", "calls": 15}
    rows = [
        {"guidance": "classifier", "sampler": "the cut at sigma_max", "rms": 0.5},
        {**common, "grid": "respaced", "rms": 0.0123},
        {**common, "grid": "karras", "rms": 0.0099},
        {**common, "grid": "karras", "rms": 0.001, "calls": 10},  # at other calls
    ]
    table = sampler_pages.digits_table(rows).splitlines()
    assert table[0] == "| guidance | sampler | respaced | karras |"
    assert table[2:] == ["| classifier | `ddim` | 0.012 | **0.0099** |"]


def test_the_errors_of_the_samplers_are_root_mean_squares_and_medians():
    found = samplers.size(np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]]))
    assert found == {"rms": pytest.approx(4.5**0.5), "median": pytest.approx(1.0)}


def test_the_sliced_distance_of_a_shift_is_its_mean_over_directions():
    cloud = np.random.default_rng(0).normal(size=(500, 2))
    shift = np.array([0.3, 0.0])
    assert samplers.sliced(cloud, cloud[::-1]) == 0
    assert samplers.sliced(cloud + shift, cloud) == pytest.approx(0.3 * 2 / np.pi, rel=1e-3)


def test_a_number_of_calls_pays_for_the_steps_of_the_sampler():
    paid = {name: samplers.ALL[name].steps(15) for name in ("ddim", "heun", "deis 3", "langevin, 10 a level")}
    assert paid == {"ddim": 15, "heun": 8, "deis 3": 14, "langevin, 10 a level": 1}


def test_the_table_of_a_sweep_has_a_row_for_each_scale_and_one_for_real_pictures():
    numbers = {(1, 0): (0.5, 10.0), (1, 1): (0.7, 14.0), (2.5, 0): (1.0, 3456.0), (2.5, 1): (1.0, 3458.0)}
    rows = [{"scale": scale, "seed": i, "accuracy": a, "fd": fd} for (scale, i), (a, fd) in numbers.items()]
    found = {"features": "judge", "rows": rows, "real": [{"accuracy": 0.98767, "fd": 3.0}]}
    table = page.text(found).splitlines()
    assert table[0].startswith("| scale | ")
    assert table[2:] == [
        "| 1 | 0.60 ± 0.14 | 12.0 ± 2.8 |",
        "| 2.5 | 1 | 3457.0 ± 1.4 |",
        "| real | 0.9877 | 3 |",
    ]
    assert page.best(found) == {"accuracy": 2.5, "fd": 1}


def test_the_table_of_levels_has_every_other_level():
    table = results.level_table({1: 0.98765, 50: 0.9, 100: 0.5, 150: 0.1, 200: 0.0994})
    assert table.splitlines()[::2] == ["| t | 1 | 100 | 200 |", "| accuracy | 0.988 | 0.500 | 0.099 |"]


def test_the_accuracy_of_a_classifier_by_level_is_that_of_its_formula():
    """Of the sign of the mean of d pixels that are all -1 or all 1: right with probability Phi(alpha sqrt(d) / sigma)."""
    levels, labels = schedule.linear(40), np.arange(4000) % 2
    pictures = np.where(labels == 1, 255, 0)[:, None, None, None] * np.ones((1, 2, 2, 1), int)

    def apply(params, x, times):
        assert times.shape == (len(x),)
        means = x.mean((1, 2, 3))
        return jnp.stack([-means, means], -1) + 0 * times[:, None]

    model = SimpleNamespace(levels=levels)
    run = SimpleNamespace(model=model, networks=SimpleNamespace(classifier=SimpleNamespace(apply=apply)))
    source = data.in_memory(pictures.astype(np.uint8), labels, 2)
    found = results.by_level(run, {}, source, 4000)
    assert list(found) == [1, *range(2, 41, 2)]
    alpha, sigma = (np.asarray(column)[list(found)] for column in levels[1:])
    np.testing.assert_allclose(list(found.values()), stats.norm.cdf(2 * alpha / sigma), atol=0.03)


def test_the_table_of_the_demo_ends_with_real_digits():
    rows = [{"guidance": "classifier", "scale": 2.0, "accuracy": 0.9876, "distance": 59.4}]
    table = comparison.table(rows, 0.5, 12.6).splitlines()
    assert table[0] == "| guidance | scale | accuracy | distance |"
    assert table[2:] == ["| classifier | 2 | 0.988 | 59 |", "| real digits | | 0.500 | 13 |"]


def test_the_distance_of_the_demo_is_of_pixels_from_0_to_16():
    """Of pictures that all have one grey value more: the means differ by 16 / 255 in each of four pixels."""
    dark = np.random.default_rng(0).integers(0, 200, (50, 2, 2, 1), np.uint8)
    assert comparison.distance(dark + np.uint8(1), dark) == pytest.approx(4 * (16 / 255) ** 2, rel=1e-6)


def test_a_mean_with_its_deviation_is_that_of_the_seeds():
    assert tricks.spread([0.9, 1.0, 1.1]) == "1.0000 ± 0.1000"
    assert tricks.spread([0.12345]) == "0.1235"


def test_the_problems_of_the_posteriors_are_those_of_the_paper_and_have_the_posterior_of_the_library():
    """A = U diag(d) V^T, noise below max(d); the densities of the benchmark differ from the library's by a constant."""
    for dy in mixtures.MEASURED:
        given = mixtures.problem(3, 8, dy)
        gains = np.linalg.svd(given.matrix, compute_uv=False)
        assert np.all(gains < 1)
        assert 0 < given.noise_std < gains[0]
    assert mixtures.means(8)[7].tolist() == [-8.0, 0.0] * 4
    law, given = mixtures.exact(3, 8, 2), mixtures.problem(3, 8, 2)
    x = law.draw(np.random.default_rng(0), 6)
    density = mixtures.posterior(*given).log_density()
    found = np.array([density(jnp.asarray(each, jnp.float32), schedule.at(mixtures.TABLE, 0)) for each in x])
    np.testing.assert_allclose(np.diff(found), np.diff(law.log_density(x)), atol=2e-3)
    precise = mixtures.problem(148, 8, 4)  # its noise squared, 1e-9, is no longer seen beside 1 in float32
    widths = np.linalg.svd(mixtures.exact(148, 8, 4).root, compute_uv=False)
    gains = np.linalg.svd(precise.matrix, compute_uv=False)
    np.testing.assert_allclose(np.sort(widths)[:4], 1 / np.sqrt(1 + (gains / precise.noise_std) ** 2), rtol=1e-6)
    exact = mixtures.judge(law.draw(np.random.default_rng(1), 1000), law, np.random.default_rng(2))
    assert exact["distance"] < 0.5
    assert abs(exact["coverage"] - 0.9) < 0.04
    assert exact["modes"] < 0.06


def test_the_tables_of_the_posteriors_have_mean_and_error_of_the_problems():
    name = mixtures.MMPS
    common = {"dx": 8, "dy": 1, "method": name, "calls": "F", "modes": [0.0, 0.2], "coverage": [0.9, 0.9]}
    rows = [
        {**common, "steps": 20, "distance": [1.0, 2.0]},
        {**common, "steps": 100, "distance": [0.5, 0.5]},
        {**common, "steps": 0, "method": levy.FLOOR, "distance": [0.1, 0.3], "calls": ""},
    ]
    tables = posterior_pages.tables(rows)
    assert list(tables) == ["T1, dx = 8", "T1, dx = 8, modes"]
    assert tables["T1, dx = 8"].splitlines()[0] == "| method | calls | dy 1, 20 steps | dy 1, 100 steps |"
    assert tables["T1, dx = 8"].splitlines()[2:] == [
        f"| {name} | F | 1.50 ± 0.98 | 0.50 ± 0.00 |",
        "| other exact draws |  | 0.20 ± 0.20 | 0.20 ± 0.20 |",
    ]
    assert tables["T1, dx = 8, modes"].splitlines()[2] == f"| {name} | 0.10 ± 0.20 | 0.90 ± 0.00 |"


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.share == 1])
def test_a_variance_given_an_increment_and_an_increment_of_it_leave_the_law_as_it_is(name):
    """One step of Gibbs sampling without data: the increments keep their law."""
    law, rng = LAWS[name], np.random.default_rng(0)
    u = law.draw(rng, (20_000,))
    variances = law.variance(u, rng.standard_normal((2, u.size)), 1 - rng.random((2, u.size)))
    again = np.sqrt(variances) * rng.standard_normal(u.size)
    assert stats.ks_2samp(again, law.draw(rng, (20_000,))).pvalue > 0.001
    for x in (-0.8, 0.2):  # the density is that of the draws, up to a constant
        density = [np.mean(np.abs(u - at) < 0.05) for at in (x, 0.0)]
        assert np.diff(law.log_density(np.array([x, 0.0])))[0] == pytest.approx(
            np.log(density[1] / density[0]), abs=0.15
        )


@pytest.mark.slow
def test_of_normal_increments_the_walks_have_the_closed_form():
    """The smoother, its covariance as the derivative, and the draws given y, beside those of the library's mixture."""
    law, level = LAWS["normal"], schedule.NoiseLevel(*jnp.array([1.0, 0.8, 0.6]))
    x_t = jnp.asarray(np.cumsum(np.random.default_rng(0).normal(size=LENGTH)), jnp.float32)
    found, exact = (
        jax.jacrev(lambda x, denoise=denoise: (denoise(x, level).x_0,) * 2, has_aux=True)(x_t)
        for denoise in (walks.denoiser(law, sweeps=2, burn_in=1), levy.denoiser("normal"))
    )
    for ours, closed in zip(found, exact, strict=True):
        np.testing.assert_allclose(ours, closed, atol=2e-3)
    given = levy.problems("normal", "blur", 1)
    draws = walks.posterior_draws(law, given.matrix, given.y, given.noise_std, np.random.default_rng(1), 4000, 0)[:, 0]
    covariance = 0.25 * np.minimum.outer(np.arange(1, LENGTH + 1), np.arange(1, LENGTH + 1))
    total = given.matrix @ covariance @ given.matrix.T + given.noise_std**2 * np.eye(LENGTH)
    gain = np.linalg.solve(total, given.matrix @ covariance).T
    np.testing.assert_allclose(draws.mean(0), gain @ given.y[0], atol=0.05)
    np.testing.assert_allclose(np.cov(draws.T), covariance - gain @ given.matrix @ covariance, atol=0.05)


def test_increments_that_may_be_0_have_their_prior_where_nothing_is_seen():
    law, rng = LAWS["Bernoulli-Laplace"], np.random.default_rng(0)
    x = walks.posterior_draws(law, np.zeros((1, LENGTH)), np.zeros((10, 1)), 1.0, rng, 100, 5)
    u = np.diff(x, prepend=0.0)
    kept = np.abs(u) > 1e-9
    assert kept.mean() == pytest.approx(law.share, abs=0.005)
    assert stats.kstest(u[kept][::4], stats.laplace.cdf).pvalue > 0.001


@pytest.mark.parametrize("name", ["t, 3", pytest.param("Bernoulli-Laplace", marks=pytest.mark.slow)])
def test_of_other_increments_the_denoiser_is_the_mean_of_exact_draws(name):
    """E[x_0 | x_t] by the smoother of each Gibbs sweep, beside draws by dense algebra."""
    law = LAWS[name]
    given = levy.problems(name, "identity", 2)
    exact = walks.posterior_draws(law, given.matrix, given.y, given.noise_std, np.random.default_rng(0), 1500, 100)
    level = schedule.NoiseLevel(*jnp.array([1.0, 1.0, given.noise_std]))
    denoise = walks.denoiser(law, sweeps=300, burn_in=30)
    found = jax.vmap(lambda x: denoise(x, level).x_0)(jnp.asarray(given.y, jnp.float32))
    np.testing.assert_allclose(found, exact.mean(0), atol=0.12 * given.noise_std)


def test_the_benchmark_of_posteriors_measures_only_what_there_is():
    with pytest.raises(ValueError, match="no method nonsense; choose among"):
        posteriors.asked(posteriors.Options(methods=("nonsense",)))
    with pytest.raises(ValueError, match="no law cauchy"):
        posteriors.asked(posteriors.Options(laws=("cauchy",)))
    default, everything = (len(posteriors.asked(posteriors.Options(all=each))) for each in (False, True))
    assert default < everything


def test_the_calls_of_the_guidances_that_make_fewer():
    levels = schedule.karras(4, 0.5, 8.0, rho=1.0)  # sigma 0.5, 3, 5.5 and 8
    interval = dataclasses.replace(fewer_calls.METHODS["interval"], interval_low=0.5, interval_high=5.5)
    found = {name: fewer_calls.calls_of(method, levels, None) for name, method in fewer_calls.METHODS.items()}
    assert {found[name] for name in ("conditional", "internal", "distilled")} == {4}
    assert found["classifier-free"] == 8
    assert fewer_calls.calls_of(interval, levels, None) == 6
    assert fewer_calls.calls_of(fewer_calls.METHODS["adaptive"], levels, np.array([1, 2])) == 6.5


def test_the_table_of_fewer_calls_has_each_method_at_its_best_scale():
    common = {"method": "distilled", "steps": 15, "calls": 15, "error": 0.25}
    rows = [
        {**common, "scale": scale, "distance": distance, "accuracy": 0.9, "seconds": seconds}
        for scale, distance, seconds in ((1.5, 0.02, 0.03), (2.0, 0.01, 0.05), (3.0, 0.03, 0.04))
    ]
    assert fewer_calls.quality_table(rows).splitlines()[2:] == ["| 15 | `distilled` | 15 | 40 | 2 | 0.900 | 0.01 |"]
    assert fewer_calls.error_table(rows).splitlines()[2].startswith("| 15 | 0.250 |")
