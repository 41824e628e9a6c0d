"""The tables that the benchmarks draw into the documents have the right values and a place in their pages."""

import json
import re

import pytest

from benchmarks import mixture, results, sampler_pages, tricks
from benchmarks.speed import __main__ as speed
from benchmarks.speed import sizes

MEASURED = json.loads((mixture.OUT / "samplers.json").read_text())
SAMPLERS = {
    "flow, cosine": sampler_pages.flow_table(MEASURED["flow"], "cosine"),
    "flow, linear": sampler_pages.flow_table(MEASURED["flow"], "linear"),
    "law": sampler_pages.law_table(MEASURED["law"]),
    "digits": sampler_pages.digits_table(MEASURED["digits"]),
    "quality": sampler_pages.quality_table(MEASURED["quality"]),
}


def test_the_tables_of_the_samplers_are_those_of_the_measurements():
    page = sampler_pages.PAGE.read_text()
    assert sampler_pages.fill(page, SAMPLERS) == page


PLACES = [
    (sampler_pages.PAGE, list(SAMPLERS)),
    (tricks.PAGE, ["tricks, scale 1", "tricks, scale 2"]),
    (results.DOCS / "results.md", [*results.SWEEPS, "levels"]),
    (
        sampler_pages.PAGE.parent / speed.PAGE.name,
        [f"{part}, {each}" for part in ("machine", "operations") for each in ("cpu", "gpu")],
    ),
]


@pytest.mark.parametrize(("page", "names"), PLACES, ids=[page.name for page, _ in PLACES])
def test_every_table_has_one_place_in_its_page(page, names):
    text = page.read_text()
    for name in names:
        assert text.count(f"<!-- measured: {name} -->") == 1
        assert "the new table" in sampler_pages.fill(text, {name: "the new table"})
    assert text.count("<!-- measured: ") == text.count("<!-- end -->") >= len(names)


def test_every_timing_of_the_page_is_one_that_the_benchmark_measures():
    text = (sampler_pages.PAGE.parent / speed.PAGE.name).read_text()
    known = {f"{size}, {job}" for size in sizes.SIZES for job in sizes.jobs(sizes.SIZES[size])}
    named = set(re.findall(r"<!-- measured: (.*) -->", text)) - set(PLACES[3][1])
    assert named <= known
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


def test_a_mean_with_its_deviation_is_that_of_the_seeds():
    assert tricks.spread([0.9, 1.0, 1.1]) == "1.0000 ± 0.1000"
    assert tricks.spread([0.12345]) == "0.1235"
