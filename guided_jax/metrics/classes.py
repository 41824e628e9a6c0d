"""Metrics from the logits of a classifier: the Inception Score and the class accuracy; and the balance of the labels.

Sources: [IS] Salimans et al. 1606.03498; [ADM] Dhariwal & Nichol 2105.05233, its evaluator.
"""

import numpy as np
from jaxtyping import Float, Int, Num

from guided_jax.metrics.summary import MeanStd


def softmax(logits: Num[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """exp(l) / sum exp(l) along the classes, in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(1, keepdims=True)


def inception_score(probabilities: Num[np.ndarray, "n k"], split_size: int = 5000) -> MeanStd:
    """exp E_x KL(p(y | x) | p(y)), p(y) the mean of p(y | x): mean and standard deviation over splits ([IS] section 4).

    probabilities: p(y | x), rows that sum to 1. Splits are `split_size` consecutive samples, the last one perhaps fewer, as
    in [ADM]. The score is 1 when the classifier sees no difference between samples, and k when it recognises k classes in
    equal numbers with certainty. ValueError for no samples and for splits of none.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if split_size < 1 or not len(probabilities):
        raise ValueError(f"{len(probabilities)} samples cannot be split into parts of {split_size}")
    parts = (probabilities[start : start + split_size] for start in range(0, len(probabilities), split_size))
    return MeanStd.of([float(np.exp(_divergence(part))) for part in parts])


def _divergence(part):
    """mean over the rows p of sum p log(p / mean p), with 0 log 0 = 0."""
    marginal = part.mean(0, keepdims=True)
    ratio = np.divide(part, marginal, out=np.ones_like(part), where=part > 0)
    return (part * np.log(ratio)).sum(1).mean()


def accuracy(logits: Num[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the share of samples whose greatest logit is that of their label. ValueError for a label beyond the logits."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}; the classifier knows {logits.shape[1]} classes"
        )
    return float((logits.argmax(1) == labels).mean())


def balance(labels: Int[np.ndarray, " n"] | None) -> str:
    """Describe how many samples there are of each class; labels below 0 are samples without one."""
    if labels is None or not (labels >= 0).any():
        return "no labels"
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    few, many = counts.min(), counts.max()
    each = f"{few} of each" if few == many else f"{few} to {many} of each"
    unlabelled = int((labels < 0).sum())
    return f"{len(counts)} classes, {each}" + (f", {unlabelled} without a label" if unlabelled else "")
