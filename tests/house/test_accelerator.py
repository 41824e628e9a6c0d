"""The benchmark for one accelerator, of tiny networks on the CPU: its rows, its waves, its budget, its table."""

import json

import jax
import numpy as np
import pytest

from benchmarks.accelerator import __main__ as accelerator
from benchmarks.accelerator import ours, pages, sizes
from benchmarks.accelerator.sizes import ROWS, TINY, Row

KEYS = accelerator.chosen(accelerator.Options(), [], torch=True)
NAMES = ("dit-xl2", "edm2-s", "sd1.5")


def known(network, job, who, **others):
    base = {"matmul": [0.1, 0.1], "memory": 2048.0, "compile": 12.0, "device": "a chip", "versions": {"jax": "1"}}
    return {"network": network, "job": job, "who": who, "seconds": [1.0, 2.0], **base, **others}


def test_rows_come_in_the_order_of_importance_with_torch_where_diffusers_has_the_network():
    assert KEYS[:3] == [(ROWS[0], "ours"), (ROWS[0], "torch compiled"), (ROWS[1], "ours")]
    assert [who for row, who in KEYS if row.network == "edm2-s"] == ["ours", "ours"]
    assert {who for _, who in accelerator.chosen(accelerator.Options(), [], torch=False)} == {"ours"}


def test_what_is_known_is_not_measured_again_unless_it_is_named():
    found = [known("adm64", "sample", "ours")]
    assert (ROWS[0], "ours") not in accelerator.chosen(accelerator.Options(), found, torch=True)
    again = accelerator.Options(rows=("adm64 sample",), programs=("ours",))
    assert accelerator.chosen(again, found, torch=True) == [(ROWS[0], "ours")]
    with pytest.raises(ValueError, match="'adm sample'; there is adm64 sample"):
        accelerator.chosen(accelerator.Options(rows=("adm sample",)), [], torch=True)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_waves_have_every_program_once_and_no_more_than_asked(size):
    found = list(accelerator.waves(KEYS, size))
    assert [key for wave in found for key in wave] == KEYS
    assert max(map(len, found)) <= size
    if size == 3:  # the programs of a row stay together
        assert {row for row, _ in found[0]} == {ROWS[0]}


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_a_sampling_row_draws_finite_pictures(name):
    row = Row(name + TINY, "sample")
    run = ours.build(row, "plain")
    work, pictures = sizes.NETWORKS[row.network].work, run()
    assert pictures.shape == (work.images, work.side, work.side, 4)
    assert np.isfinite(pictures).all()
    assert np.abs(pictures[0] - pictures[1]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if Row(name, "train") in ROWS])
def test_a_training_row_makes_steps(name):
    run = ours.build(Row(name + TINY, "train"), "plain")
    first = run()
    assert np.isfinite(first)
    assert run() != first


@pytest.mark.slow
def test_operations_of_the_full_networks_are_those_of_their_papers():
    """A call of DiT-XL/2 is 118.6 G multiplications ([DiT] table 4), of EDM2-S 102 G ([EDM2] table 2)."""
    for name, giga in (("dit-xl2", 118.6), ("edm2-s", 102.0)):
        found = ours.cases(name, sizes.NETWORKS[name].config, plain=True)
        assert ours.count(found["good"], "sample") / 2e9 == pytest.approx(giga, rel=0.03)
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(found["bad"].params)) == pytest.approx(125e6, rel=0.01)


def test_the_operations_of_a_row_are_those_of_its_calls():
    row = Row("dit-xl2" + TINY, "sample")
    work, config = sizes.NETWORKS[row.network]
    one = ours.count(ours.cases(row.network, config, plain=True)["good"], "sample")
    assert ours.operations(row) == 2 * one * work.images * work.steps


def test_the_table_has_the_rate_by_our_operations_and_the_ratio():
    count = pages.matmul_flops(sizes.NETWORKS["adm64"].work)  # of one product's timing, 0.1 s
    rows = [
        known("adm64", "sample", "torch compiled", seconds=[3.0, 3.0]),
        known("adm64", "sample", "ours", operations=5 * count, attention="cudnn"),
    ]
    lines = pages.text(rows).splitlines()
    # 1.5 s of 4 steps; 5 products' worth in 15 times their time
    assert "| adm64, sample | ours, cudnn attention | 375 | 1.00 |" in lines[2]
    assert "| 33% | 2.00 | 12 |" in lines[2]
    assert "| adm64, sample | torch compiled | 750 | 2.25 |" in lines[3]
    assert "edm2-s there is none in diffusers" in lines[-1]
    assert pages.text([]) == "Nothing is measured yet."


class Answering:
    """A worker that answers at once, or never became ready."""

    def __init__(self, row, who, dead=False):
        self.name, self.dead = f"{who}, {row.network}", dead

    @property
    def ready(self):
        if self.dead:
            raise RuntimeError(f"{self.name} ended with -9")
        return {"compile": 1.0, "operations": 1, "device": "CPU", "versions": {}}

    def time(self):
        return {"seconds": 0.5, "memory": 1.0}


@pytest.fixture
def answering(monkeypatch):
    """`start` and `finish` without processes; the workers that are dead."""
    dead = set()

    def start(row, who, quick, seconds):
        worker = Answering(row, who, (row.network, who) in dead)
        worker.timer = type("Timer", (), {"cancel": lambda self: None})()
        return worker

    monkeypatch.setattr(accelerator, "start", start)
    monkeypatch.setattr(accelerator, "finish", lambda worker: None)
    monkeypatch.setattr(accelerator, "find_spec", lambda name: True)
    return dead


def test_a_row_that_does_not_compile_is_left_out_and_the_others_are_kept(answering, tmp_path, capsys):
    answering.add(("sd1.5", "ours"))
    accelerator.main(["--out", str(tmp_path), "--rounds", "2"])
    rows = json.loads((tmp_path / accelerator.FILE).read_text())
    assert len(rows) == len(KEYS) - 1
    assert "ours, sd1.5 ended with -9: it is left out" in capsys.readouterr().out
    answering.clear()
    accelerator.main(["--out", str(tmp_path), "--rounds", "2"])  # what is missing alone
    assert len(json.loads((tmp_path / accelerator.FILE).read_text())) == len(KEYS)


def test_a_spent_budget_starts_nothing(answering, tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 10**6, 400))
    monkeypatch.setattr(accelerator.time, "monotonic", lambda: next(clock))
    accelerator.main(["--out", str(tmp_path), "--budget", "500", "--at-once", "2"])
    assert len(json.loads((tmp_path / accelerator.FILE).read_text())) == 2
    assert "the budget of 500 s is spent; start again for the rest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"), [(["--rounds", "0"], "--rounds is 0"), (["--quick", "--page"], "no numbers to quote")]
)
def test_wrong_use_is_one_sentence(words, message):
    with pytest.raises(ValueError, match=message):
        accelerator.main(words)


@pytest.mark.slow
def test_a_quick_run_measures_by_processes_and_prints_the_table(tmp_path, capsys):
    accelerator.main(["--quick", "--rows", "dit-xl2 sample", "--programs", "ours", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / accelerator.FILE).read_text())
    assert row["operations"] > 0
    assert "| dit-xl2, tiny, sample | ours, plain attention |" in capsys.readouterr().out
