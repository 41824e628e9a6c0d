"""The solvers of diffusers and azula end in the sample that ours end in: the same noise, the same denoiser, float64.

Optional: `pip install '.[oracle]'` brings both, and torch. docs/samplers.md says where the two agree and where not.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import reverse, schedule
from tests.oracle import MIXTURE

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

BETAS = np.linspace(1e-4, 0.02, 1000)
STEPS = 38  # 999 is divisible by 37, so that all their timesteps are whole numbers
VP = {"num_train_timesteps": 1000, "trained_betas": BETAS, "timestep_spacing": "linspace"}
# Their DDIM goes on by 1000 // STEPS timesteps whatever the spacing: only with "leading" a step ends where the next begins.
LEADING = {**VP, "timestep_spacing": "leading"}
SOLVER = {**VP, "final_sigmas_type": "zero", "lower_order_final": True}
ANCESTRAL = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"


def rows(levels):
    """Name -> (ours, theirs, whether their x is x_t / alpha_t)."""
    dpm, unipc = diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler
    plus = {**SOLVER, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
    ddim = diffusers.DDIMScheduler(**LEADING, clip_sample=False, set_alpha_to_one=True)
    return {
        "ddim": (reverse.ddim(), ddim, False),
        "dpm++ 1": (reverse.dpm_solver(1), dpm(**plus, solver_order=1), False),
        "dpm++ 2M": (reverse.dpm_solver(2, solver_type="midpoint", run=levels), dpm(**plus, solver_order=2), False),
        "unipc 2": (reverse.unipc(2, "bh2", levels), unipc(**SOLVER, solver_order=2, solver_type="bh2"), False),
        "euler": (reverse.euler(), diffusers.EulerDiscreteScheduler(**VP), True),
        "heun": (reverse.heun(), diffusers.HeunDiscreteScheduler(**VP), True),
        "euler ancestral": (reverse.euler_ancestral(), diffusers.EulerAncestralDiscreteScheduler(**VP), True),
    }


NAMES = ("ddim", "dpm++ 1", "dpm++ 2M", "unipc 2", "euler", "heun", "euler ancestral")


@pytest.fixture(scope="module")
def setting():
    """(the table in float64, x_T, the noise of each step)."""
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - BETAS)])
    noise = np.random.default_rng(0).standard_normal((STEPS + 1, 2))
    return schedule.NoiseLevel(np.arange(1001.0), np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)), noise[0], noise[1:]


def levels_of(table, name):
    """The levels that a run visits."""
    if name == "ddim":
        spaced = np.arange(STEPS) * (1000 // STEPS)
    elif name in ("dpm++ 1", "dpm++ 2M", "unipc 2"):  # these leave out timestep 0
        spaced = np.linspace(0, 999, STEPS + 1).round().astype(int)[1:]
    else:
        spaced = np.linspace(0, 999, STEPS).astype(int)
    return jax.tree.map(lambda part: part[np.r_[0, 1 + spaced]], table)


def ours(step, levels, x_T, noise, monkeypatch):
    """The sample of a step of ours, its noise in the order of the steps."""
    drawn = iter(noise)
    monkeypatch.setattr(jax.random, "normal", lambda *given: jnp.asarray(next(drawn)))
    x, memory = jnp.asarray(x_T), step.init(jnp.asarray(x_T))
    for i in range(len(levels.t) - 1, 0, -1):
        now, then = (jax.tree.map(lambda part, at=at: jnp.asarray(part[at]), levels) for at in (i, i - 1))
        x, memory = step.step(jax.random.key(0), MIXTURE.denoiser(0), x, memory, now, then)
    return np.asarray(x)


def theirs(scheduler, scaled, table, levels, x_T, noise, monkeypatch):
    """The sample of a scheduler of theirs, by the same denoiser."""
    drawn = iter(noise)
    monkeypatch.setattr(ANCESTRAL, lambda *given, **named: torch.tensor(next(drawn)))
    scheduler.set_timesteps(STEPS)
    x = torch.tensor(x_T / levels.alpha[-1] if scaled else x_T)[None]
    for t in scheduler.timesteps:
        level = jax.tree.map(lambda part, at=int(t) + 1: jnp.asarray(part[at]), table)
        assert float(t) == int(t)
        given = scheduler.scale_model_input(x, t)
        eps = MIXTURE.denoiser(0)(jnp.asarray(given[0].numpy()), level).eps
        x = scheduler.step(torch.tensor(np.asarray(eps))[None], t, x).prev_sample
    return x[0].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_sample(name, setting, monkeypatch):
    """Within the rounding of their tables, which are float32."""
    table, x_T, noise = setting
    levels = levels_of(table, name)
    with jax.enable_x64(True):
        step, scheduler, scaled = rows(levels)[name]
        found = ours(step, levels, x_T, noise, monkeypatch)
        expected = theirs(scheduler, scaled, table, levels, x_T, noise, monkeypatch)
    assert found.dtype == expected.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=2e-6)


def azulas(sample, name, levels):
    """A sampler of azula's module `sample`, on the noisy levels of a run: it ends at the least noisy one."""
    noisy = torch.tensor(np.stack([levels.alpha, levels.sigma]))

    class Exact(torch.nn.Module):
        """The mixture's denoiser; its time goes from 0 to 1 along the levels."""

        def schedule(self, t):
            return tuple(noisy[:, torch.round(t * (noisy.shape[1] - 1)).long()])

        def forward(self, x_t, t):
            level = schedule.NoiseLevel(0.0, *(jnp.asarray(part.numpy()) for part in self.schedule(t)))
            x_0 = MIXTURE.denoiser(0)(jnp.asarray(x_t.numpy()), level).x_0
            return types.SimpleNamespace(mean=torch.tensor(np.asarray(x_0)))

    run = {"steps": noisy.shape[1] - 1, "silent": True, "dtype": torch.float64}
    return {
        "ddim": lambda: sample.DDIMSampler(Exact(), **run),
        "euler": lambda: sample.EulerSampler(Exact(), **run),
        "heun": lambda: sample.HeunSampler(Exact(), **run),
        "deis 2": lambda: sample.zABSampler(Exact(), order=2, **run),
        "dpm++ 1": lambda: sample.xEABSampler(Exact(), order=1, **run),
    }[name]()


OURS = {
    "ddim": reverse.ddim(),
    "euler": reverse.euler(),
    "heun": reverse.heun(),
    "deis 2": reverse.deis(2),
    "dpm++ 1": reverse.dpm_solver(1),
}


@pytest.mark.parametrize("name", OURS)
def test_the_same_sample_as_azulas(name, setting, monkeypatch):
    """To the last digits of float64, as their tables are ours."""
    sample = pytest.importorskip("azula.sample")
    table, x_T, noise = setting
    levels = jax.tree.map(lambda part: part[1:], levels_of(table, "heun"))
    with jax.enable_x64(True):
        found = ours(OURS[name], levels, x_T, noise, monkeypatch)
        expected = azulas(sample, name, levels)(torch.tensor(x_T)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
