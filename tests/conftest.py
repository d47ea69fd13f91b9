"""Programs of tests are compiled quickly, and once for all of a session's processes.

A test marked `optimized` gets them as users do: those of the bits that users get, and of the kernels that are written for
XLA:CPU. JAXDL_TEST_OPTIMIZED=1 makes all of them such.
"""

import contextlib
import ctypes
import os
import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import compiling

from experiments import backend

backend.collect_seldom()
os.environ.pop("TFDS_DATA_DIR", None)  # a test that needs real data says so: a developer's own setting would hide it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with compiling.quickly(compiling.wanted() and item.get_closest_marker("optimized") is None):
        return (yield)


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
    """What glibc keeps of freed memory, gigabytes in the course of a session, goes back to the system."""
    yield
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(scope="session", autouse=True)
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
