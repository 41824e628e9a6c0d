"""The dry run on described chips: the shares of the state, and how collectives are counted. Nothing is compiled."""

import math

import jax
import pytest

from benchmarks import chips, collectives

PROGRAM = """HloModule jit_step
%all-reduce-scatter.1 (param: bf16[64,8]) -> bf16[8,8] {
  %all-reduce.3 = bf16[64,8]{1,0} all-reduce(%param), replica_groups={{0,1}}, to_apply=%add
}
%body (p: f32[8]) -> f32[8] {
  %all-gather.2 = f32[16,8]{1,0:T(8,128)} all-gather(%x), dimensions={0}
  %reduce-scatter.4 = f32[2,8]{1,0} reduce-scatter(%y), dimensions={0}, to_apply=%add
  %all-gather-start.1 = (f32[2,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), dimensions={0}
  %all-gather-done.1 = f32[16,8]{1,0} all-gather-done(%all-gather-start.1)
}
ENTRY %main (a: f32[]) -> f32[] {
  ROOT %all-reduce.9 = (f32[4]{0}, f32[]) all-reduce(%a, %b), to_apply=%add
}
"""


def test_collectives_are_counted_once_where_they_begin():
    found = collectives.count(PROGRAM, chips=8)
    assert found == {"reduce-scatter": (2, 1024 + 512), "all-gather": (2, 1024), "all-reduce": (1, 20)}
    assert collectives.describe({"all-reduce": (2, 2**29)}) == "2 all-reduce of 0.50 GiB"


@pytest.mark.parametrize(("name", "millions"), [("edm2-xs", 125), ("edm2-xxl", 1523)])
def test_a_chip_holds_its_part_of_weights_average_and_moments(name, millions):
    case = chips.CASES[name]()
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(case.params))
    assert weights / 1e6 == pytest.approx(millions, abs=1)
    for count in (8, 64):
        assert chips.share(case.params, count) == pytest.approx(4 * weights / count, rel=0.02)
        assert chips.share(chips.state_of(case, "train"), count) == pytest.approx(16 * weights / count, rel=0.02)


def test_a_row_that_was_not_compiled_says_so():
    row = {"network": "edm2-xs", "parameters": 125e6, "job": "train", "chips": 64, "chip": "v5p", "batch": 8}
    row |= {"state": 2**30}
    assert "| 64 v5p | 8 | 1.00 GiB | not compiled | not compiled | not compiled |" in chips.lines([row])
    assert "| 64 v5p, in groups of 8 | 8 |" in chips.lines([{**row, "group": 8}])
