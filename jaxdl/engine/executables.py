"""Compiled programs that several experiments of one process share."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax


class Executables:
    """Compiled programs, found again by what they compute.

    Two experiments that differ only in values that lie in the State (its hyper-parameters, its seeds) lower to the same
    text, constants included: the second one gets the first one's executable. Nothing has to be known of what differs,
    and a setting that is baked into a program can never be mistaken for one that is not.
    """

    def __init__(self) -> None:
        self._found: dict[tuple, Any] = {}

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
