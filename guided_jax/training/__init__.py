"""Training with any loss: one optimization step, the loop around it, and averages of the parameters."""

from guided_jax.training.step import (
    Part,
    TrainState,
    init,
    learning_rate_schedule,
    numbers,
    optimizer,
    part,
    train_step,
)

__all__ = ["Part", "TrainState", "init", "learning_rate_schedule", "numbers", "optimizer", "part", "train_step"]
