"""Settings that every test shares. The package itself is not imported here: jaxtyping's hook must come first."""

import gc

import jax
import pytest
from hypothesis import settings

settings.register_profile("course", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("course")


@pytest.fixture(autouse=True)
def jax_settings_stay():
    """No test, and nothing that a test calls, changes JAX's global settings."""
    before = jax.config.jax_enable_x64
    yield
    assert jax.config.jax_enable_x64 == before


@pytest.fixture(autouse=True, scope="module")
def what_is_compiled_goes():
    """Programs of one file are of little use to the next: kept, they come to gigabytes, which `gc` walks through."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Each precision in turn; 64 bits only for as long as the test runs."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    """For tests that compare with finite differences, or with digits that float32 has not."""
    with jax.enable_x64(True):
        yield
