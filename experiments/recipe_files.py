"""The recipes: one file each in experiments/recipes/, found by listing the folder, imported only when chosen.

A recipe's module has a docstring (its first line describes it), `Config` (a frozen dataclass with defaults),
`build(config) -> Experiment`, and perhaps `VARIANTS`: name -> a Config, or a function that returns one. The docstring
describes a variant where it shows its command: "--recipe=NAME:VARIANT   # what it is". `THREADS = 1` in the module says
that its arrays are too small to be shared by threads.
"""

import ast
import importlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.flags import UsageError
from experiments.nearest import nearest

PACKAGE = "experiments.recipes"


@dataclass(frozen=True)
class Summary:
    """What a recipe's file says of itself without being imported: its first line, and its variants with theirs."""

    name: str
    line: str
    variants: dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """A chosen recipe.

    Attributes:
      name: "lenet5".
      variant: "mnist", or "" for the recipe as it is.
      config: the variant's configuration, before any flag.
      build: configuration -> Experiment.
      doc: the module's docstring.
      threads: XLA:CPU's, where the recipe asks for a number.
    """

    name: str
    variant: str
    config: Any
    build: Callable[[Any], Any]
    doc: str
    threads: int | None = None

    @property
    def title(self) -> str:
        """As on the command line: "lenet5:mnist"."""
        return f"{self.name}:{self.variant}" if self.variant else self.name

    @property
    def folder(self) -> str:
        """Name of its run folder: "lenet5-mnist"."""
        return self.title.replace(":", "-")


def names(package: str = PACKAGE) -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(path.stem for path in _folder(package).glob("*.py") if not path.stem.startswith("_"))


def summary(name: str, package: str = PACKAGE) -> Summary:
    """First line of the docstring and the variants of one recipe, read from its syntax tree."""
    tree = ast.parse((_folder(package) / f"{name}.py").read_text(encoding="utf-8"))
    doc = (ast.get_docstring(tree) or "").strip()
    variants = {variant: _described(name, variant, doc) for variant in _variants(tree)}
    return Summary(name, doc.splitlines()[0] if doc else "", variants)


def table(package: str = PACKAGE) -> str:
    """All recipes, one line each, the name first; each variant has its own line."""
    rows = []
    for name in names(package):
        found = summary(name, package)
        rows.append((name, found.line))
        rows += [(f"{name}:{variant}", f"  {line}") for variant, line in found.variants.items()]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {line}".rstrip() for name, line in rows)


def load(title: str, package: str = PACKAGE) -> Recipe:
    """Imports the recipe "name" or "name:variant".

    Raises:
      UsageError: there is no such recipe or variant; names the nearest ones.
      TypeError: the file is not a recipe.
    """
    name, _, variant = title.partition(":")
    known = names(package)
    if name not in known:
        raise UsageError(f"unknown recipe {name!r}{_hint(name, known)}; --recipe=list shows all")
    module = importlib.import_module(f"{package}.{name}")
    for needed in ("Config", "build"):
        if not hasattr(module, needed):
            raise TypeError(f"recipe {name} has no {needed}: a recipe's file defines Config and build(config)")
    variants = getattr(module, "VARIANTS", {})
    if ":" in title and variant not in variants:
        known = [f"{name}:{v}" for v in variants]
        hint = _hint(title, known, every=True) if known else f"; {name} has no variants"
        raise UsageError(f"unknown recipe {title!r}{hint}")
    chosen = variants[variant] if variant else module.Config
    config = chosen() if callable(chosen) else chosen
    return Recipe(name, variant, config, module.build, module.__doc__ or "", getattr(module, "THREADS", None))


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package}")
    return Path(next(iter(spec.submodule_search_locations)))


def _hint(name: str, known: list[str], every: bool = False) -> str:
    near = nearest(name, known)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there is {', '.join(known)}" if every else ""


def _described(name: str, variant: str, doc: str) -> str:
    found = re.search(rf"--recipe={name}:{variant}(?: .*?)?# *(.*)", doc)
    return found[1].strip() if found else f"variant of {name}"


def _variants(tree: ast.Module) -> tuple[str, ...]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if any(isinstance(t, ast.Name) and t.id == "VARIANTS" for t in targets) and isinstance(value, ast.Dict):
            return tuple(k.value for k in value.keys if isinstance(k, ast.Constant) and isinstance(k.value, str))
    return ()
