"""The tests of the recipes compile the same programs several times: one compilation cache for the session."""

import jax
import pytest


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
    """A fresh cache folder, also for the subprocesses that ask for it."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    folder = tmp_path_factory.mktemp("cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
