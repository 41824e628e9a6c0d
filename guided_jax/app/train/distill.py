"""Guidance distillation: the run whose classifier-free guidance another network learns to make in one call."""

from typing import Any

import numpy as np

from guided_jax import guidance
from guided_jax.app import run as runs
from guided_jax.losses import Teacher
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel


def make_teacher(run: runs.Run) -> Teacher:
    """Return (x_t, level, raw condition, scale) -> the guided prediction of the run of `distill_from`.

    Raises ValueError for a run that guides nothing, or that denoises something else.
    """
    source = run.experiment.diffusion.distill_from
    teacher = runs.load(source)
    if wrong := _misfit(run, teacher):
        raise ValueError(f"--diffusion.distill-from {source} {wrong}; give another run")
    params = teacher.prepare("diffusion", teacher.params("diffusion"))

    def predict(x_t: Any, level: NoiseLevel, raw: Any, scale: Any) -> Prediction:
        model = lambda raw: runs.make_denoiser(teacher, params, teacher.model.condition(params, raw))  # noqa: E731
        return guidance.classifier_free(model(raw), model(teacher.model.null), scale)(x_t, level)

    return predict


def _misfit(run: runs.Run, teacher: runs.Run) -> str:
    """Return in words why a run cannot teach this one, "" for nothing."""
    if teacher.model.null is None:
        return "was trained without label dropout and has no null label, which guidance needs"
    if teacher.scales is not None:
        return "is told the scale itself"
    if teacher.model.shape != run.model.shape:
        return f"draws x of {teacher.model.shape}, and this run {run.model.shape}"
    same = [getattr(teacher.facts, name) == getattr(run.facts, name) for name in ("num_classes", "labelling", "words")]
    if not all(same):
        return "has other conditions than this one"
    tables = zip(run.model.levels, teacher.model.levels, strict=True)
    if not all(np.array_equal(one, other) for one, other in tables):
        return "has other noise levels than this one"
    return ""
