"""One leaf of a configuration: its default, its help text and the values it may take."""

import dataclasses
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A documented field of a frozen configuration dataclass.

    Args:
      default: value when nothing else is said; immutable.
      help: one line for `--help`, with unit or range.
      choices: the allowed values, if they can be listed.
      minimum: smallest allowed number (each element, for a tuple).
      maximum: largest allowed number (each element, for a tuple).

    Returns:
      A `dataclasses.field` whose metadata the command line turns into a typed flag.
    """
    metadata = {"help": help, "choices": tuple(choices), "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=metadata)
