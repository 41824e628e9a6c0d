"""How cost grows: the slope at the large end, the lines through it, the table that is drawn from the file."""

import json
import math

import jax
import pytest

from benchmarks.growth import __main__ as growth
from benchmarks.growth import knobs, pages
from benchmarks.measured import known_rows
from benchmarks.mixture import OUT

MEASURED = known_rows(OUT / growth.FILE)


def row(knob, value, milliseconds, **others):
    base = {"operations": 1e6 * value, "memory": 2**20 * value, "compile": 2.0, "load": 0.5, "machine": "a chip"}
    seconds = [milliseconds / 1000 * noise for noise in (1.0, 0.9, 3.0)]
    return {
        "knob": knob,
        "value": value,
        "seconds": seconds,
        "processor": milliseconds / 1000,
        "system": 0.0,
        **base,
        **others,
    }


def fixed_cost(knob):
    """5 ms and 2 ms for each."""
    return [row(knob, value, 5 + 2 * value) for value in (1, 4, 16, 64, 256)]


def test_the_slope_is_that_of_the_two_largest_values():
    assert pages.slope((1, 10, 100), (7.0, 1.0, 1000.0)) == pytest.approx(3)
    with pytest.raises(ValueError, match="measure at least 2"):
        pages.slope((1,), (1.0,))


def test_a_fixed_cost_and_a_cost_for_each_are_found_and_none_is_below_0():
    x = (1, 4, 16, 64, 256)
    assert pages.line(x, [5 + 2 * n for n in x]) == pytest.approx((5, 2))
    assert pages.line(x, [2 * n - 0.5 for n in x])[0] == 0


def test_the_share_of_attention_is_that_of_the_fourth_power():
    sides = (8, 16, 32, 64)
    counted = [7 + 3 * s**2 + 0.25 * s**4 for s in sides]
    assert pages.powers(sides, counted) == pytest.approx((7, 3, 0.25))


@pytest.mark.slow
def test_counted_operations_of_the_side_are_such_a_sum():
    values = (8, 16, 32, 64)
    counted = [knobs.operations("side", value) for value in values]
    a, b, c = pages.powers(values, counted)
    assert a + 64 * b + 4096 * c == pytest.approx(counted[0], rel=1e-3)
    assert knobs.operations("batch", 16) == 4 * knobs.operations("batch", 4)


def test_the_memory_of_all_pairs_is_that_of_the_heads():
    # 4 pictures of 64x64, attention at half the side: 64 channels in heads of 32, weights of 1024 x 1024 in float32
    assert pages.pairs(64) == 4 * 2 * 1024**2 * 4


def test_the_table_says_what_the_slopes_are_and_leaves_out_what_was_not_measured():
    rows = [*fixed_cost("batch"), row("devices", 1, 8.0)]
    table, sentences, machine = pages.growth(rows).split("\n\n")
    assert len(table.splitlines()) == 3  # one device has no slope
    assert (
        f"| batch, 1 to 256 | {math.log(517 / 133) / math.log(4):.2f} | 7, 517 | 7, 517 | 2.0, 2.0 | 1, 256 |" in table
    )
    assert sentences.startswith("- **batch**: 5 ms + 2 ms a picture")
    assert "2.5 pictures" in sentences  # of the fixed cost
    assert machine.startswith("a chip. ")


@pytest.mark.parametrize("knob", knobs.KNOBS)
def test_every_knob_has_a_sentence(knob):
    rows = [row(knob, value, 1.0 + value) for value in knobs.KNOBS[knob].values]
    assert f"- **{knob}**: " in pages.growth(rows)


def test_the_picture_is_drawn_of_what_there_is(tmp_path):
    pages.picture(fixed_cost("particles"), tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_kept_a_knob_at_a_time(tmp_path):
    path = tmp_path / growth.FILE
    growth.keep(path, fixed_cost("batch"))
    growth.keep(path, fixed_cost("steps"))
    growth.keep(path, fixed_cost("batch")[:2])
    assert [(each["knob"], each["value"]) for each in known_rows(path)][-2:] == [("batch", 1), ("batch", 4)]
    assert len(known_rows(path)) == 7
    assert json.loads(path.read_text())[0]["seconds"] == pytest.approx([0.007, 0.0063, 0.021])


def test_more_devices_than_there_are_are_not_measured(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: ["one"])
    assert growth.turned("devices", quick=False) == (1,)
    assert growth.turned("classes", quick=True) == (10, 1000)


def test_every_knob_of_the_page_was_measured():
    assert {each["knob"] for each in MEASURED} == set(knobs.KNOBS)


@pytest.mark.parametrize(
    ("words", "message"), [(["--rounds", "0"], "--rounds is 0"), (["--quick", "--page"], "no numbers to quote")]
)
def test_wrong_use_is_one_sentence(words, message):
    with pytest.raises(ValueError, match=message):
        growth.main(words)
