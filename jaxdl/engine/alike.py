"""Whether two objects were built alike, so that JAX would trace the same program from them."""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

_PLAIN = (str, bytes, bool, int, float, complex, type(None), np.generic, np.dtype)


def alike(one: Any, other: Any) -> bool:
    """Whether two objects consist of equal parts: functions of the same code around equal values, dataclasses of equal
    fields, equal arrays.

    What is traced from a function depends on its code and on what it refers to, so programs of alike objects are the same.
    The opposite does not hold: True is certain, False means that nobody knows, for example of objects of another kind.
    """
    return _alike(one, other, {})


def _alike(one: Any, other: Any, seen: dict[tuple[int, int], Any]) -> bool:
    if one is other or (id(one), id(other)) in seen:
        return True
    if type(one) is not type(other):
        return False
    # a pair within itself is alike if everything else is; kept, so that no other object gets its id
    seen[id(one), id(other)] = (one, other)
    if isinstance(one, (types.CodeType, jax.ShapeDtypeStruct)):
        return one == other
    if isinstance(one, _PLAIN):
        # as written out: 0.0 equals -0.0, and NaN not itself
        return repr(one) == repr(other)
    if type(one) is np.ndarray or isinstance(one, jax.Array):
        return _same_array(one, other)
    ours, theirs = _parts(one), _parts(other)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return False
    return all(_alike(a, b, seen) for a, b in zip(ours, theirs, strict=True))


def _parts(value: Any) -> list | None:
    """What an object is made of; None where that is not known."""
    if isinstance(value, types.FunctionType):
        try:
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
        except ValueError:  # one is empty
            return None
        own = (value.__code__, id(value.__globals__), value.__defaults__, value.__kwdefaults__, value.__dict__)
        return [*own, *cells]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        # flax keeps notes of its own in a module, an identity among them
        hidden = "_" if isinstance(value, nn.Module) else "__"
        names += sorted(n for n in getattr(value, "__dict__", ()) if n not in names and not n.startswith(hidden))
        return [names, *(getattr(value, name, None) for name in names)]
    if isinstance(value, Mapping):
        return [list(value.keys()), *value.values()]
    if isinstance(value, (list, tuple)):
        return list(value)
    return None


def _same_array(one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    if getattr(one, "weak_type", False) != getattr(other, "weak_type", False) or one.dtype.hasobject:
        return False
    one, other = np.ascontiguousarray(one), np.ascontiguousarray(other)
    # as bytes: 0.0 equals -0.0, and NaN not itself
    return np.array_equal(one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8))
