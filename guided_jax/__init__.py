"""Guidance for diffusion models as small pure functions in JAX and Flax.

The symbols, used in every docstring and every argument list:

| symbol       | meaning                                                                                      |
|--------------|----------------------------------------------------------------------------------------------|
| `x_0`, `eps` | clean example, standard normal noise                                                         |
| `x_t`, `x_s` | noisy examples, s < t                                                                        |
| `alpha`, `sigma` | amplitudes: x_t = alpha x_0 + sigma eps. VP: alpha^2 + sigma^2 = 1. VE / EDM: alpha = 1  |
| `t`          | step, float: 0 clean, 1..T noise, fractional off the grid                                    |
| `level`      | `NoiseLevel(t, alpha, sigma)`; in a step `now` is where x is, `then` is where it goes        |
| `score`      | grad_x log p(x_t) = -eps / sigma                                                             |
| `v`          | alpha eps - sigma x_0                                                                        |
| `scale`      | guidance strength: 0 ignores the label, 1 is the exact conditional, above 1 is sharper       |

Everything that computes is written for one example of shape `(*shape)` and one scalar level; `jax.vmap` makes the batch.
"""
