"""The ControlNet of a request to a Stable Diffusion: read from its folder, and put beside the network of the run."""

from typing import Any

from guided_jax import parallel
from guided_jax.app import run as runs
from guided_jax.app.sample.request import Method


def add_control(run: runs.Run, method: Method) -> runs.Run:
    """Return the run with the ControlNet of --control beside its network, and its parameters beside those of the run.

    ValueError for a run that is no Stable Diffusion, for no picture, and for a folder of another network.
    """
    if method.control is None:
        return run
    if run.load_control is None:
        raise ValueError("--control is for runs of a Stable Diffusion; leave it out")
    if not method.control_image:
        raise ValueError("--control steers by a picture; name it with --control-image")
    wrap, own = run.load_control(method.control)
    variant, attention = run.variant, run.attention
    assert variant is not None
    assert attention is not None

    def params(part: str, sharding: Any = None, *which: Any) -> Any:
        found = run.params(part, sharding, *which)
        if part != "diffusion":
            return found
        placed = parallel.place_leaves(own, sharding)
        return {**found, "control": placed}

    return run._replace(
        model=run.model._replace(network=wrap(run.model.network)),
        variant=lambda *given: wrap(variant(*given)),
        attention=wrap(attention),
        params=params,
    )
