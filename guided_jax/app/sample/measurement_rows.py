"""The guidances of `guided-jax sample --guidance` by what --measure names, a row each."""

from typing import Any

from guided_jax.app.sample import posterior, targets
from guided_jax.app.sample.row import Row, plain
from guided_jax.app.sample.targets import Target

MEASURED = ("measure", "operator", "noise_std", "space")
OWN_STEPS: dict[str, Any] = {"follow": ("dynamic",), "scaled": False, "labelled": False, "own_step": True}

MEASUREMENTS: dict[str, Row] = {
    "pigdm": Row(
        "score + scale grad log p(y | x_t) of what --measure names, x_0 given x_t taken to be normal [PiGDM ICLR 2023]",
        posterior.pigdm,
        ("measurement", "linear"),
        (*MEASURED, "data_std"),
        labelled=False,
    ),
    "mmps": Row(
        "as pigdm, with the covariance of x_0 by the network itself, --iterations backward passes [MMPS 2405.13712]",
        posterior.mmps,
        ("measurement",),
        (*MEASURED, "iterations"),
        labelled=False,
        target=Target(
            "p(x | y) itself, a backward pass for each number of y [TDS, MMPS]", targets.measured, scaled=False
        ),
    ),
    "dps": Row(
        "x_s - scale grad |y - A x_0| of what --measure names, around any step [DPS 2209.14687]",
        plain,
        ("measurement",),
        MEASURED,
        ("ramp", "dynamic"),
        labelled=False,
        step=posterior.dps,
    ),
    "repaint": Row(
        "noised y where it is observed, --repeats steps for each level, for the mask only [RePaint 2201.09865]",
        posterior.pasted,
        ("measurement",),
        (*MEASURED, "repeats"),
        ("dynamic",),
        scaled=False,
        labelled=False,
        step=posterior.repaint,
    ),
    "ddnm": Row(
        "the measured part of x_0 replaced by y, then ddpm's step; all of y counts without noise only [DDNM 2212.00490]",
        plain,
        ("measurement", "linear", "adjoint"),
        MEASURED,
        **OWN_STEPS,
        step=posterior.ddnm,
    ),
    "diffpir": Row(
        "x_0 between the prediction and y by --prior-weight, then noised, by --zeta with new noise [DiffPIR 2305.08995]",
        plain,
        ("measurement", "linear", "adjoint"),
        (*MEASURED, "prior_weight", "zeta"),
        **OWN_STEPS,
        step=posterior.diffpir,
    ),
    "daps": Row(
        "x_0 by --calls of the network, then --iterations Langevin steps towards y, noised anew [DAPS 2407.01521]",
        plain,
        ("measurement", "noise"),
        (*MEASURED, "calls", "iterations"),
        **OWN_STEPS,
        step=posterior.daps,
    ),
    "split-gibbs": Row(
        "x_0 drawn by --calls of the network, then noised as y allows: near exact, slow [PnP-DM 2405.18782]",
        plain,
        ("measurement", "linear", "adjoint"),
        (*MEASURED, "calls"),
        **OWN_STEPS,
        step=posterior.split_gibbs,
    ),
}
