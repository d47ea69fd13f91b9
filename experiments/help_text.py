"""--help: every flag of a binary, grouped by section."""

import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from experiments.flags import Leaf, text_of, type_of, walk

_WIDEST_NAME = 34


@dataclass(frozen=True)
class Group:
    """Flags under one heading."""

    title: str
    line: str
    leaves: tuple[Leaf, ...]


def width_of_terminal() -> int:
    """Columns to write in: the terminal's, between 60 and 100."""
    return min(100, max(60, shutil.get_terminal_size((90, 24)).columns))


def sections(config: Any, title: str) -> list[Group]:
    """A configuration's leaves by section, each with the first line of its dataclass's docstring.

    Args:
      config: a frozen dataclass.
      title: of the leaves that are in no section.
    """
    found: dict[str, list[Leaf]] = {}
    for leaf in walk(config):
        found.setdefault(leaf.name.rpartition(".")[0], []).append(leaf)
    return [Group(name or title, _first_line(_section(config, name)), tuple(found[name])) for name in found]


def _section(config: Any, name: str) -> Any:
    for part in filter(None, name.split(".")):
        config = getattr(config, part)
    return config


def _first_line(config: Any) -> str:
    doc = (type(config).__doc__ or "").strip()
    # dataclasses makes up a docstring, the signature, where there is none
    return "" if doc.startswith(f"{type(config).__name__}(") else doc.split("\n")[0].rstrip(".")


def format_help(usage: str, summary: str, groups: Iterable[Group], width: int) -> str:
    """The whole text.

    Args:
      usage: how the binary is called.
      summary: what it does, paragraphs separated by empty lines.
      groups: its flags.
      width: columns; no line is longer, except for names that are.
    """
    groups = list(groups)
    longest = max((len(leaf.name) + 2 for group in groups for leaf in group.leaves), default=0)
    column = min(longest, _WIDEST_NAME) + 4
    lines = textwrap.wrap(f"usage: {usage}", width, subsequent_indent="    ")
    for paragraph in filter(None, summary.split("\n\n")):
        lines += ["", *textwrap.wrap(paragraph, width)]
    for group in groups:
        lines += ["", *textwrap.wrap(f"{group.title}: {group.line}" if group.line else group.title, width)]
        for leaf in group.leaves:
            lines += _entry(leaf, column, width)
    return "\n".join(lines)


def _entry(leaf: Leaf, column: int, width: int) -> list[str]:
    room = width - column
    text = " ".join(str(leaf.metadata.get("help") or "").split())
    right = textwrap.wrap(text, room, break_on_hyphens=False) + textwrap.wrap(
        _values(leaf), room, break_on_hyphens=False
    )
    left = f"  --{leaf.name}"
    if len(left) + 2 > column:
        return [left, *(" " * column + line for line in right)]
    return [left.ljust(column) + right[0], *(" " * column + line for line in right[1:])]


def _values(leaf: Leaf) -> str:
    kind = type_of(leaf)
    parts = [] if leaf.choices and kind == "text" else [kind]
    if leaf.choices:
        parts.append(f"{'any of' if leaf.many else 'one of'} {leaf.listed}")
    elif leaf.bounds:
        parts.append(leaf.bounds)
    unset = leaf.default is None or leaf.default == () or leaf.default == ""
    parts.append("default: " + ("not set" if unset else text_of(leaf.default)))
    if leaf.default is True:
        parts.append(f"off: --no{leaf.name}")
    return f"[{'; '.join(parts)}]"
