"""How the programs of this process are compiled: as users' are, or quickly, in a third of the time.

Most programs of a test run once, for a moment. Quickly means LLVM without optimisation, and kernels by XLA:CPU's older
emitter; what XLA fuses, how it lays arrays out and which library multiplies matrices stays as it is.
"""

import contextlib
import functools
import os

import jax
from jax._src import compiler

_SETTING = "jax_disable_most_optimizations"
_OLDER = ("xla_cpu_use_fusion_emitters", False)
_options = compiler.get_compile_options
_now = [False]


@functools.cache
def _has_older_emitter():
    """Whether this XLA knows the setting; to one that does not it is an error."""
    program = jax.jit(lambda: 0.0, compiler_options=dict([_OLDER]))
    try:
        with quickly(False):
            program.lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _chosen(*args, **kwargs):
    options = _options(*args, **kwargs)
    if _now[-1] and jax.default_backend() == "cpu" and _has_older_emitter():
        options.env_option_overrides = [*options.env_option_overrides, _OLDER]
    return options


@contextlib.contextmanager
def quickly(on=True):
    """In this context programs are compiled quickly (or as users' are); those compiled before stay as they are."""
    compiler.get_compile_options = _chosen
    _now.append(on)
    jax.config.update(_SETTING, on)
    try:
        yield
    finally:
        _now.pop()
        jax.config.update(_SETTING, _now[-1])


def wanted():
    """False where JAXDL_TEST_OPTIMIZED asks for all programs as users get them."""
    return not os.environ.get("JAXDL_TEST_OPTIMIZED")
