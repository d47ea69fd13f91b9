"""Nested frozen dataclasses as native absl flags, and back.

Every leaf of a configuration (see `jaxdl.settings.setting`) becomes one typed flag `--section.leaf`. Leaves are int,
float, str, bool, a tuple of int, float or str, or one of these or None.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from absl import flags

from experiments.nearest import did_you_mean
from jaxdl.errors import UserError

_SCALARS = (int, float, str, bool)
_WORDS = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
_SHORT = {int: "int", float: "float", str: "text", bool: "bool"}
_TRUE = ("true", "t", "yes", "1")
_FALSE = ("false", "f", "no", "0")


class UsageError(UserError):
    """The command line is wrong: one line for people, exit code 2."""


@dataclass(frozen=True)
class Leaf:
    """One leaf of a configuration.

    Attributes:
      name: "section.leaf".
      kind: int, float, str or bool; of the elements, for a tuple.
      many: whether the value is a tuple.
      optional: whether the value may be None.
      default: its value in the configuration.
      metadata: what `setting` or `option` recorded: help, choices, minimum, maximum, repeated.
    """

    name: str
    kind: type
    many: bool
    optional: bool
    default: Any
    metadata: Mapping[str, Any]

    @property
    def choices(self) -> tuple:
        """The values that are allowed, of each element for a tuple; () where they are not listed."""
        return tuple(self.metadata.get("choices") or ())

    @property
    def repeated(self) -> bool:
        """Whether each use of the flag adds one value."""
        return bool(self.metadata.get("repeated"))

    @property
    def _limits(self) -> tuple:
        return self.metadata.get("minimum"), self.metadata.get("maximum")

    @property
    def bounds(self) -> str:
        """The allowed range in words, "" where there is none."""
        low, high = self._limits
        if low is not None and high is not None:
            return f"{_brief(low)} to {_brief(high)}"
        if low is not None:
            return f">= {_brief(low)}"
        return f"<= {_brief(high)}" if high is not None else ""

    @property
    def listed(self) -> str:
        """The choices in words."""
        return ", ".join(text_of(choice) or '""' for choice in self.choices)

    @property
    def expected(self) -> str:
        """What a value must be, for an error line."""
        if self.choices:
            words = ("a comma-separated list of: " if self.many else "one of: ") + self.listed
        elif self.many:
            example = {int: "64,128", float: "0.1,0.01", str: "a,b"}[self.kind]
            each = f" {self.bounds}" if self.bounds else ""
            words = f"comma-separated {'integers' if self.kind is int else _SHORT[self.kind] + 's'}{each} ({example})"
        else:
            words = " ".join(filter(None, [_WORDS[self.kind], self.bounds]))
        return f"{words}, or none" if self.optional else words

    def parse(self, text: str) -> Any:
        """The typed value of a flag's text; raises ValueError with what was expected."""
        text = text.strip() if self.kind is not str or self.many or self.choices else text
        if self.optional and text.lower() == "none":
            return None
        if not self.many:
            return self._element(text)
        inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
        if not inner.strip():
            return ()
        return tuple(self._element(part.strip()) for part in inner.rstrip(",").split(","))

    def check(self, value: Any) -> Any:
        """A value from JSON or Python, in the leaf's exact type; raises ValueError with what was expected."""
        if value is None and self.optional:
            return None
        if not self.many:
            return self._typed(value)
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"expected {self.expected}")
        return tuple(self._typed(element) for element in value)

    def _element(self, text: str) -> Any:
        if self.kind is bool:
            if text.lower() not in _TRUE + _FALSE:
                raise ValueError(f"expected {self.expected}")
            return text.lower() in _TRUE
        try:
            return self._allowed(self.kind(text))
        except (ValueError, OverflowError) as error:
            if str(error).startswith("expected"):
                raise
            raise ValueError(f"expected {self.expected}") from None

    def _typed(self, value: Any) -> Any:
        # bool is a subclass of int: True must not pass for 1
        fits = type(value) is self.kind or (self.kind is float and type(value) is int)
        if not fits:
            raise ValueError(f"expected {self.expected}")
        return self._allowed(self.kind(value))

    def _allowed(self, value: Any) -> Any:
        if self.choices:
            if value in self.choices:
                return value
            hint = did_you_mean(str(value), [str(choice) for choice in self.choices])
            raise ValueError(f"expected {self.expected}{hint}")
        low, high = self._limits
        if self.kind is float and not math.isfinite(value) and not self._may_be(value):
            raise ValueError(f"expected {self.expected}, finite")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(f"expected {self.expected}")
        return value

    def _may_be(self, value: float) -> bool:
        """A value that is not finite is allowed where the recipe itself uses it, as the default or as a bound."""
        used = (*(self.default if self.many else (self.default,)), *self._limits)
        return any(isinstance(u, float) and (u == value or (math.isnan(u) and math.isnan(value))) for u in used)


def option(default: Any, help: str, *, repeated: bool = False, **limits: Any) -> Any:
    """`jaxdl.settings.setting` for a binary's own flag.

    Args:
      default: value without the flag.
      help: one line for --help.
      repeated: for a tuple of str: each use of the flag adds one value.
      limits: choices, minimum, maximum.
    """
    metadata = {"help": help, "choices": (), "minimum": None, "maximum": None, "repeated": repeated, **limits}
    return dataclasses.field(default=default, metadata=metadata)


def text_of(value: Any) -> str:
    """A leaf's value as it is written on the command line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(text_of, value))
    return repr(value) if isinstance(value, float) else str(value)


def _brief(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else text_of(number)


def walk(config: Any, prefix: str = "") -> Iterator[Leaf]:
    """Every leaf of a configuration (a frozen dataclass, or its class), in the order of its fields."""
    if isinstance(config, type):
        config = config()
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{prefix}{field.name}.")
        else:
            kind, many, optional = _kind(hints[field.name], f"{type(config).__name__}.{field.name}")
            yield Leaf(prefix + field.name, kind, many, optional, value, field.metadata)


def leaves(config: Any) -> dict[str, Any]:
    """Every leaf as {"section.leaf": value}: config.json, and what two configurations are compared by."""
    return {leaf.name: leaf.default for leaf in walk(config)}


def config_from_leaves(config: Any, values: Mapping[str, Any]) -> Any:
    """`config` (a frozen dataclass, or its class) with the values of {"section.leaf": value}, as read from JSON.

    Raises:
      ValueError: a leaf that is not in the configuration, or a value of another type or out of range.
    """
    if isinstance(config, type):
        config = config()
    known = {leaf.name: leaf for leaf in walk(config)}
    typed = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown setting {name}{did_you_mean(name, list(known))}")
        try:
            typed[name] = known[name].check(value)
        except ValueError as error:
            raise ValueError(f"setting {name}={value!r}: {error}") from None
    return _replaced(config, typed)


def define_flags(config: Any, flag_values: flags.FlagValues) -> list[Leaf]:
    """Defines one absl flag for each leaf, with the configuration's value as the default.

    Args:
      config: a frozen dataclass, or its class.
      flag_values: where the flags are defined.

    Returns:
      The leaves, in order.

    Raises:
      TypeError: a leaf has no supported type, or a name that is already a flag.
    """
    found = list(walk(config))
    define_leaves(found, flag_values)
    return found


def define_leaves(found: Iterable[Leaf], flag_values: flags.FlagValues) -> None:
    """As `define_flags`, for leaves that are at hand already."""
    for leaf in found:
        try:
            flags.DEFINE_flag(_flag(leaf), flag_values)
        except flags.IllegalFlagValueError as error:
            raise TypeError(f"the default of {leaf.name} is not allowed: {error}") from None
        except flags.DuplicateFlagError:
            raise TypeError(f"--{leaf.name} is defined twice: rename the leaf in the configuration") from None


def config_from_flags(config: Any, flag_values: flags.FlagValues) -> Any:
    """`config` (a frozen dataclass, or its class) with the values of its flags, as defined by `define_flags`."""
    if isinstance(config, type):
        config = config()
    return _replaced(config, {leaf.name: _value(flag_values[leaf.name]) for leaf in walk(config)})


def _value(flag: flags.Flag) -> Any:
    return tuple(flag.value) if isinstance(flag, flags.MultiFlag) and flag.value is not None else flag.value


def _replaced(config: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    changes = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            changes[field.name] = _replaced(value, values, f"{name}.")
        elif name in values:
            changes[field.name] = values[name]
    return dataclasses.replace(config, **changes)


def _kind(hint: Any, where: str) -> tuple[type, bool, bool]:
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        if len(inner) == 1:
            hint, optional = inner[0], True
    if hint in _SCALARS:
        return hint, False, optional
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and arguments[1:] == (...,) and arguments[0] in (int, float, str):
        return arguments[0], True, optional
    raise TypeError(f"{where} has type {hint}: use int, float, str, bool or tuple[int, ...] and the like")


class _Parser(flags.ArgumentParser):
    """absl's view of a leaf."""

    def __init__(self, leaf: Leaf):
        self.leaf = leaf
        self.syntactic_help = leaf.expected

    def parse(self, argument: Any) -> Any:
        return self.leaf.parse(argument) if isinstance(argument, str) else self.leaf.check(argument)

    def flag_type(self) -> str:
        return type_of(self.leaf)


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return text_of(value)


def type_of(leaf: Leaf) -> str:
    """A leaf's type in one word, for --help."""
    if leaf.repeated:
        return "text, repeatable"
    return f"{_SHORT[leaf.kind]},..." if leaf.many else _SHORT[leaf.kind]


def _flag(leaf: Leaf) -> flags.Flag:
    # kwargs: absl caches parsers by their positional arguments, and 1 == 1.0 == True would share one
    if leaf.repeated:
        one = dataclasses.replace(leaf, many=False, default="")
        return flags.MultiFlag(_Parser(leaf=one), _Serializer(), leaf.name, leaf.default, leaf.metadata.get("help"))
    boolean = leaf.kind is bool and not leaf.many and not leaf.optional
    return flags.Flag(
        _Parser(leaf=leaf), _Serializer(), leaf.name, leaf.default, leaf.metadata.get("help"), boolean=boolean
    )
