"""The names and signatures that the outside world calls; a change here breaks somebody."""

import inspect

import pytest

import guided_jax.analytic
import guided_jax.denoiser
import guided_jax.forward
import guided_jax.guidance
import guided_jax.prediction
import guided_jax.reverse
import guided_jax.sampler
import guided_jax.schedule
from tests.oracle import MIXTURE
from tests.steppers import STEPPERS

SIGNATURES = {
    "schedule.NoiseLevel": "t alpha sigma",
    "schedule.linear": "num_steps=1000",
    "schedule.cosine": "num_steps=1000",
    "schedule.from_betas": "betas",
    "schedule.karras": "num_steps sigma_min sigma_max rho=7.0",
    "schedule.at": "levels index",
    "schedule.respace": "levels spec",
    "schedule.interpolate": "levels log_snr",
    "forward.Normal": "mean variance",
    "forward.diffuse": "x_0 eps level",
    "forward.transition": "x_s eps level_s level_t",
    "forward.posterior": "x_t x_0 now then",
    "prediction.Prediction": "x_0 eps variance_fraction=None",
    **{f"prediction.from_{view}": "output x_t level" for view in ("eps", "x_0", "v", "score", "flow")},
    "prediction.score": "prediction level",
    "prediction.v": "prediction level",
    "denoiser.edm": "network sigma_data=0.5",
    "denoiser.from_batched": "network",
    "guidance.classifier": "denoise log_prob scale",
    "guidance.classifier_free": "conditional unconditional scale",
    "guidance.clip": "denoise low=-1.0 high=1.0",
    "reverse.ReverseStep": "init step law=None",
    "reverse.ddpm": "variance='small'",
    "reverse.classifier_ddpm": "log_prob scale at='x_t' variance='small'",
    "reverse.ddim": "eta=0.0",
    "sampler.sample": "key denoise step x_T levels observe=None",
    "sampler.run": "key denoise step x_T levels observe=None",
    "sampler.keys": "key indices",
    "analytic.GaussianMixture": "weights means stds=None labels=None covariances=None",
}


def found(path):
    module, name = path.split(".")
    return getattr(getattr(guided_jax, module), name)


@pytest.mark.parametrize(("path", "signature"), SIGNATURES.items(), ids=SIGNATURES)
def test_signature(path, signature):
    parameters = inspect.signature(found(path)).parameters.values()
    written = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert " ".join(written) == signature


def test_from_network():
    parameters = inspect.signature(guided_jax.denoiser.from_network).parameters
    assert list(parameters) == ["network", "parameterization", "learned_variance", "time"]
    level = guided_jax.schedule.at(guided_jax.schedule.cosine(10), 4)
    assert float(parameters["time"].default(level)) == 3


STEPS = {name: stepper.make(guided_jax.schedule.cosine(100)) for name, stepper in STEPPERS.items()} | {
    "classifier_ddpm": guided_jax.reverse.classifier_ddpm(MIXTURE.log_prob(0), 2.0),
    "classifier_ddpm-mean": guided_jax.reverse.classifier_ddpm(MIXTURE.log_prob(0), 2.0, at="mean"),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_every_sampler_is_a_reverse_step(step):
    """Types and the structure of the memory: tests/reverse/test_types.py."""
    assert list(inspect.signature(step.init).parameters) == ["x_T"]
    assert list(inspect.signature(step.step).parameters) == ["key", "denoise", "x_t", "memory", "now", "then"]
