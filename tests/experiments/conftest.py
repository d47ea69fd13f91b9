"""One compilation cache for the session, because the tests of the recipes compile the same programs several times; and one
thread for PyTorch."""

import os
import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
    """A fresh cache folder that all workers of this session share, also for the subprocesses that ask for it."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    folder.mkdir(exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)


def _unoptimized():
    with laws.quickly_compiled():
        yield


# programs that run for a few steps need no optimising: they compile in a third of the time. What users run is compiled as
# they do in test_recipes_killed.py
quickly_compiled = pytest.fixture(_unoptimized)
module_quickly_compiled = pytest.fixture(scope="module")(_unoptimized)


@pytest.fixture
def one_thread():
    """PyTorch's threads wait actively, which on a busy machine takes the cores from those that work."""
    torch = pytest.importorskip("torch", reason="PyTorch is the other side of this comparison")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
