"""Metrics of samples: statistics and distances of features in float64 on the host, the features on all devices.

`guided-jax metrics samples.npz reference.npz` prints them. docs/metrics.md has the formulas and the pitfalls.
"""

from guided_jax.metrics.alignment import Retrieval, Score, clip_score, mismatched_clip_score, retrieval
from guided_jax.metrics.by_level import retrieval_by_level
from guided_jax.metrics.classes import accuracy, balance, inception_score, softmax
from guided_jax.metrics.distributions import (
    highest_density_coverage,
    mode_distance,
    mode_weights,
    noise_floor,
    sliced_wasserstein,
)
from guided_jax.metrics.evaluation import Reference, compare, evaluate, prepare
from guided_jax.metrics.features import Extractor, FeatureFunction, Features, extractor, pixels
from guided_jax.metrics.files import (
    Statistics,
    load_statistics,
    open_pictures,
    save_statistics,
    statistics_of,
)
from guided_jax.metrics.frechet import Moments, accumulate, frechet_distance, frechet_infinity, merge, moments
from guided_jax.metrics.kernel import kernel_distance, mmd_squared, normal_kernel
from guided_jax.metrics.neighbours import density_coverage, precision_recall, radii_squared
from guided_jax.metrics.summary import MeanStd, Summary, summarize

__all__ = [
    "Extractor",
    "FeatureFunction",
    "Features",
    "MeanStd",
    "Moments",
    "Reference",
    "Retrieval",
    "Score",
    "Statistics",
    "Summary",
    "accumulate",
    "accuracy",
    "balance",
    "clip_score",
    "compare",
    "density_coverage",
    "evaluate",
    "extractor",
    "frechet_distance",
    "frechet_infinity",
    "highest_density_coverage",
    "inception_score",
    "kernel_distance",
    "load_statistics",
    "merge",
    "mismatched_clip_score",
    "mmd_squared",
    "mode_distance",
    "mode_weights",
    "moments",
    "noise_floor",
    "normal_kernel",
    "open_pictures",
    "pixels",
    "precision_recall",
    "prepare",
    "radii_squared",
    "retrieval",
    "retrieval_by_level",
    "save_statistics",
    "sliced_wasserstein",
    "softmax",
    "statistics_of",
    "summarize",
]
