"""Training whatever the loss: one optimization step, the loop around it, and averages of the parameters."""

from guided_jax.training.step import Part, TrainState, init, numbers, optimizer, part, train_step

__all__ = ["Part", "TrainState", "init", "numbers", "optimizer", "part", "train_step"]
