"""The matrix products of the mathematics: GPUs round float32 products to TF32 unless told otherwise."""

from functools import partial

import jax.numpy as jnp

dot = partial(jnp.matmul, precision="highest")
einsum = partial(jnp.einsum, precision="highest")
