"""Compiled programs that several experiments of one process share."""

import hashlib
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax

from jaxdl.target import target_platform

# in a third of the time
_QUICKLY = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


class Executables:
    """Compiled programs, found again by what they compute.

    Two experiments that differ only in values that lie in the State (its hyper-parameters, its seeds) lower to the same
    text, constants included: the second one gets the first one's executable. Nothing has to be known of what differs,
    and a setting that is baked into a program can never be mistaken for one that is not.
    """

    def __init__(self) -> None:
        self._found: dict[tuple, Any] = {}
        self._once: dict[int, tuple[weakref.ref, dict[Hashable, Any]]] = {}

    def once(self, owner: Any, key: Hashable, make: Callable[[], Any]) -> Any:
        """`make()`, called once for an owner and a key: what was traced for an object need not be traced again.

        Args:
          owner: an object that can be referred to weakly; another one is another owner, even if equal. What was made for
            it is forgotten with it.
          key: all that the result depends on beside the owner.
          make: must not refer to the owner in what it returns.
        """
        name = id(owner)
        if name not in self._once:
            self._once[name] = (weakref.ref(owner, lambda _: self._once.pop(name, None)), {})
        made = self._once[name][1]
        if key not in made:
            made[key] = make()
        return made[key]

    def compiled(self, lowered: Any, devices: tuple, compile: Callable[[Any], Any]) -> Any:
        """`compile(lowered)`, or the executable of an equal program.

        Args:
          lowered: a `jax.stages.Lowered`.
          devices: where it runs; its text does not say.
          compile: lowered -> executable.
        """
        # with this setting constants become hidden arguments, and the text does not tell them apart
        if getattr(jax.config, "jax_use_simplified_jaxpr_constants", False):
            return compile(lowered)
        text = hashlib.sha256(lowered.as_text().encode()).digest()
        key = (text, devices, lowered.in_tree, lowered.out_tree)
        if key not in self._found:
            self._found[key] = compile(lowered)
        return self._found[key]

    @property
    def count(self) -> int:
        """How many programs were compiled."""
        return len(self._found)


def compile_lowered(lowered: Any, in_turn: bool = False, quickly: bool = False) -> Any:
    """Compiles a program; what is asked for counts on CPU only.

    Args:
      lowered: a `jax.stages.Lowered`.
      in_turn: its operations run one after another: for networks of a few kilobytes to hand each to another thread takes longer
        than to compute it (32 against 47 us a step of an MLP with two layers of 64).
      quickly: without optimisation, for what runs once in a while.
    """
    options: dict[str, Any] = {**_QUICKLY} if quickly else {}
    if in_turn:
        options["xla_cpu_scheduler_type"] = "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
    if target_platform() != "cpu" or not options:
        return lowered.compile()
    try:
        return lowered.compile(options)
    except jax.errors.JaxRuntimeError:  # an XLA without these options
        return lowered.compile()
