"""--label-scale: classifier-free guidance beside one by a worse network, as skip-layer guidance is used."""

import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import model, schedule
from guided_jax.app import facts
from guided_jax.app import run as runs
from guided_jax.app.network_fields import Field
from guided_jax.app.sample import guidances
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method

LEVELS = schedule.karras(10, 0.1, 10.0)
VALUES = {1: 3.0, 2: 1.0}  # of the label, and of none; 2 of the label without a block


def drawn(position, guidance="skip-layer", **options):
    """(x_0 of a guided prediction, the calls of networks in its program)."""
    calls = []

    def network(params, x, time, condition, skipped=False):
        calls.append((condition, skipped))
        return jnp.full_like(x, 2.0 if skipped else VALUES[condition])

    def variant(fields, low_res, estimate):
        assert fields == {"skip_blocks": ("blocks_1",)}
        return lambda *arguments: network(*arguments, skipped=True)

    made = model.Model(network, LEVELS, "x_0", shape=(1,), null=2)
    known = {"variant": variant, "fields": {"skip_blocks": Field(("blocks_1",), ("blocks_0", "blocks_1"))}}
    run = runs.from_params(made, facts.Facts((1,), 2, (0.5, 0.5)), {"diffusion": {}}, **known)
    request = Method(guidance, interval_low=1.0, interval_high=5.0, **options)
    parts = Parts(run, request, {"diffusion": {}}, label=1, scale=5.0)
    guided = guidances.guide(request, parts)
    return float(guided(jnp.zeros(1), schedule.at(LEVELS, position)).x_0[0]), calls


@pytest.mark.parametrize("label_scale", [1.0, 2.5])
def test_both_guidances_are_added(label_scale):
    """u + label_scale (c - u) + (scale - 1) (c - bad); at a label scale of 1 it is the guidance alone."""
    found, calls = drawn(5, label_scale=label_scale)
    assert found == 1 + label_scale * (3 - 1) + (5 - 1) * (3 - 2)
    assert sorted(calls) == [(1, False), (1, True), (2, False)]
    if label_scale == 1:
        assert found == drawn(5)[0]


def test_an_interval_is_of_the_worse_network_alone():
    """Classifier-free guidance is at every level, and no network is in the program more than once."""
    positions = np.flatnonzero((np.asarray(LEVELS.sigma) > 1) & (np.asarray(LEVELS.sigma) <= 5))
    for position, inside in ((int(positions[0]), True), (10, False), (1, False)):
        found, calls = drawn(position, "skip-layer+interval", label_scale=2.5)
        assert found == 1 + 2.5 * (3 - 1) + inside * (5 - 1) * (3 - 2)
        assert sorted(calls) == [(1, False), (1, True), (2, False)]
