"""The rules of the house that a reader relies on, read from the source itself."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(path for room in ("jaxdl", "experiments") for path in (ROOT / room).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
LEAVES = {"data", "objectives", "optimizers", "schedules", "settings", "errors", "target"}
# which rooms a room may import, besides itself: experiments -> tasks, rl, reports -> models -> nn
MAY_IMPORT = {
    "errors": set(),
    "settings": {"errors"},
    "target": set(),
    "schedules": {"settings", "errors"},
    "optimizers": {"schedules", "settings", "errors"},
    "data": {"settings", "errors", "target"},
    "objectives": {"settings", "errors", "target"},
    "engine": {"settings", "errors", "target"},
    "nn": LEAVES,
    "models": LEAVES | {"nn"},
    "tasks": LEAVES | {"nn", "models", "engine"},
    "rl": LEAVES | {"nn", "models", "engine"},
    "reports": LEAVES | {"nn", "models"},
}
HEAVY = {"matplotlib", "sklearn", "PIL", "tensorflow_datasets", "orbax", "tensorflow", "torch", "scipy", "mctx"}
COMPILES = {"jit", "pmap", "shard_map"}
TRAINS = {"apply_updates", "value_and_grad", "train_step"}
# file -> why it may import heavy packages at its top; nobody may import it at theirs
HEAVY_AT_THE_TOP = {"jaxdl/data/builders.py": "it consists of subclasses of TFDS builders"}
# file -> why it may compile or checkpoint by itself
EXCEPTIONS: dict[str, str] = {
    "experiments/bench_loops.py": "it measures the plain loops that the engine is compared with",
}


@functools.cache
def tree(name):
    """The syntax tree of a file."""
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def imports(nodes):
    """(module, names) of all import statements among `nodes`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", tuple(alias.name for alias in node.names)


def at_start_up(node):
    """All nodes of a module that run when it is imported: those outside of functions and of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_start_up(child)


def room(module):
    """ "jaxdl.nn.context" -> "nn"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def called(node):
    """The last part of a call's name: `jax.value_and_grad(...)` -> "value_and_grad"."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def compiled_by_hand(name):
    """What a file says of compiling, checkpoints and loops over updates: lines "number: what"."""
    found = []
    for node in ast.walk(tree(name)):
        line = getattr(node, "lineno", 0)
        if (
            isinstance(node, ast.Attribute)
            and node.attr in COMPILES
            and ast.unparse(node.value) in ("jax", "nn", "linen")
        ):
            found.append(f"{line}: {ast.unparse(node)}")
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for module, names in imports([node]):
                if module.split(".")[0] == "orbax" or "checkpoint" in module.split("."):
                    found.append(f"{line}: import of {module}")
                if module.split(".")[0] == "jax" and COMPILES & set(names):
                    found.append(f"{line}: import of {COMPILES & set(names)}")
        if isinstance(node, (ast.For, ast.While)):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and (
                    called(inner) in TRAINS or ast.unparse(inner.func).endswith("task.step")
                ):
                    found.append(f"{inner.lineno}: {ast.unparse(inner.func)} in a Python loop")
    return found


@pytest.mark.smoke
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("jaxdl/engine/")])
def test_only_the_engine_compiles_trains_and_saves(name):
    if name in EXCEPTIONS:
        assert compiled_by_hand(name), f"{name} needs no exception any more"
    else:
        assert compiled_by_hand(name) == []


def test_the_engine_itself_would_be_found():
    """The rule above sees what it looks for."""
    assert any("jax.jit" in line for line in compiled_by_hand("jaxdl/engine/program.py"))
    assert any("orbax" in line for line in compiled_by_hand("jaxdl/engine/checkpoint.py"))


@pytest.mark.smoke
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("jaxdl/") and name != "jaxdl/__init__.py"])
def test_imports_run_one_way(name):
    own = pathlib.Path(name).parts[1].removesuffix(".py")
    assert own in MAY_IMPORT, f"{name}: a room that MAY_IMPORT does not know"
    for module, names in imports(ast.walk(tree(name))):
        assert not module.startswith("experiments"), f"{name} imports {module}"
        if module == "jaxdl":
            assert set(names) <= MAY_IMPORT[own] | {own}, f"{name} imports {names}"
        elif module.startswith("jaxdl."):
            assert room(module) in MAY_IMPORT[own] | {own}, f"{name} imports {module}"


def test_no_module_imports_itself_over_others():
    graph = {}
    for name in NAMES:
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        graph[module] = {target for target, _ in imports(at_start_up(tree(name)))}
    done, path = set(), []

    def visit(module):
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done or module not in graph:
            return
        path.append(module)
        for target in graph[module]:
            visit(target)
        done.add(path.pop())

    for module in graph:
        visit(module)


@pytest.mark.parametrize("name", NAMES)
def test_heavy_packages_are_imported_where_they_are_used(name):
    heavy = [module for module, _ in imports(at_start_up(tree(name))) if module.split(".")[0] in HEAVY]
    assert bool(heavy) == (name in HEAVY_AT_THE_TOP), heavy
    modules = {path.removesuffix(".py").replace("/", ".") for path in HEAVY_AT_THE_TOP}
    assert not modules & {module for module, _ in imports(at_start_up(tree(name)))}


@pytest.mark.smoke
@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_are_short(name):
    assert pathlib.Path(name).name not in ("utils.py", "helpers.py", "misc.py")
    lines = (ROOT / name).read_text(encoding="utf-8").count("\n")
    assert lines <= 400, f"{name} has {lines} lines"
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{name}:{node.lineno} {node.name} has {length} lines"


def test_importing_is_cheap():
    """`import jaxdl` brings in no JAX; the engine brings in nothing that it needs only now and then."""
    code = """
import sys
import jaxdl
assert "jax" not in sys.modules, "jax"
import jaxdl.engine.fit, jaxdl.data.source, jaxdl.tasks.supervised
heavy = {"orbax", "matplotlib", "sklearn", "PIL", "tensorflow_datasets", "tensorflow", "torch", "mctx"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"
