"""The command line of every binary: flags from dataclasses, --recipe, --help, one-line errors, exit codes."""

import dataclasses
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn

from absl import flags

from experiments import backend, recipe_files
from experiments.flags import Leaf, UsageError, config_from_flags, define_flags, define_leaves, option, walk
from experiments.help_text import Group, format_help, sections, width_of_terminal
from experiments.nearest import nearest
from experiments.session import folder_to_read, in_bucket
from jaxdl.errors import UserError

_LONGEST_MESSAGE = 600
_SMALLER = "--train.batch_size, --train.eval_batch_size, --seeds or the model's size, or use --precision=bfloat16"
_HELP = ("help", "helpfull", "helpshort", "h")


@dataclass(frozen=True)
class ProgramFlags:
    """The flags that binaries share; each binary names those that it uses."""

    recipe: str = option("", "experiment to run, NAME or NAME:variant; 'list' prints all")
    workdir: str = option("", "run folder, also gs://BUCKET/FOLDER; where not set: runs/NAME or runs/NAME-variant")
    overwrite: bool = option(False, "delete what an earlier run left in the run folder and start afresh")
    seed: int = option(0, "seed of every random number", minimum=0, maximum=2**31 - 1)
    seeds: int | None = option(None, "train this many seeds, from --seed on, each in its own sub-folder", minimum=1)
    seeds_mode: str = option(
        "auto",
        "several seeds: one after another (loop), in one program (map), batched (vmap), one per device (shard)",
        choices=("auto", "loop", "map", "vmap", "shard"),
    )
    parallel: str = option("jit", "how several devices share one run", choices=("jit", "pmap"))
    fsdp: bool = option(False, "split parameters over the devices; needs --parallel=jit")
    model_parallel: int = option(
        1, "tensor parallelism of Transformers: devices that share each layer; needs --parallel=jit", minimum=1
    )
    precision: str = option("float32", "type that layers compute in", choices=("float32", "bfloat16"))
    init_from: str = option("", "run folder whose parameters training starts from (fine-tuning)")
    deterministic: bool = option(False, "GPU: repeat bit for bit, at some cost in speed")
    processes: int = option(1, "train in this many processes on this machine", minimum=1)
    distributed: str = option(
        "auto",
        "meet the run's other processes where SLURM, a TPU VM or --processes says so (auto)",
        choices=("auto", "off"),
    )
    smoke: bool = option(False, "a few steps of everything, always fresh, under runs/smoke/")
    check: bool = option(False, "run the recipe's sanity checks before training")
    input: tuple[str, ...] = option((), "file to read; repeat the flag, or list more files after it", repeated=True)
    format: str = option("text", "how results are printed", choices=("text", "json"))
    debug: bool = option(False, "show tracebacks and the logs of other libraries")


@dataclass(frozen=True)
class _Always:
    """What --help shows besides; absl itself reads --flagfile."""

    flagfile: str = option("", "read flags from this file, one a line; # starts a comment")
    help: bool = option(False, "show this text; with --recipe, that recipe's flags")


@dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    Attributes:
      program: the binary's name, "train".
      flags: values of the shared flags that the binary uses and of its own, by name: `arguments.flags.seed`.
      given: names of all flags that stand on the command line or in a flagfile.
      recipe: the chosen recipe; None for a binary without --recipe.
      config: its configuration with the flags applied; None without a recipe.
      command: the command line, as it can be typed again.
      address: where --workdir lies in a bucket and flags.workdir is a copy of it; else "".
    """

    program: str
    flags: SimpleNamespace
    given: frozenset[str]
    recipe: Any
    config: Any
    command: str
    address: str = ""

    def shown(self, path: Any) -> str:
        """A path in the run folder as people know it."""
        return str(path).replace(self.flags.workdir, self.address, 1) if self.address else str(path)


@dataclass(frozen=True)
class Binary:
    """What a binary is and which flags it has.

    Attributes:
      program: its name: "train".
      summary: what it does, for --help; paragraphs separated by empty lines.
      flags: names of the shared flags (fields of ProgramFlags) that it uses; --debug always belongs to them.
      options: a frozen dataclass of flags of its own (`experiments.flags.option`), or None.
      default_recipe: what runs without --recipe; "": the flag is necessary, where the binary uses it.
      package: where recipes are looked for.
      smaller: what makes it need less memory, after "turn down".
      trains: whether it trains in --workdir, which it then claims itself where it lies in a bucket.
    """

    program: str
    summary: str
    flags: tuple[str, ...] = ()
    options: Any = None
    default_recipe: str = ""
    package: str = recipe_files.PACKAGE
    smaller: str = _SMALLER
    trains: bool = False

    @property
    def shared_leaves(self) -> list[Leaf]:
        """Leaves of the shared flags, --debug last; that of --recipe has `default_recipe` as its default."""
        known = {leaf.name: leaf for leaf in walk(ProgramFlags)}
        chosen = [known[name] for name in (*self.flags, "debug")]
        return [dataclasses.replace(x, default=self.default_recipe) if x.name == "recipe" else x for x in chosen]

    @property
    def leaves(self) -> list[Leaf]:
        """Leaves of all its flags but the recipe's: the shared ones, then its own."""
        return self.shared_leaves + (list(walk(self.options)) if self.options is not None else [])


def run(main: Callable[[Arguments], int | None], binary: Binary) -> NoReturn:
    """Runs a binary with the process's command line and leaves with its exit code; see `execute`."""
    code = execute(main, binary, sys.argv)
    if "jaxdl.engine.processes" in sys.modules:
        sys.modules["jaxdl.engine.processes"].end(code)
    sys.exit(code)


def execute(main: Callable[[Arguments], int | None], binary: Binary, argv: Sequence[str]) -> int:
    """Parses a command line and calls `main`.

    Args:
      main: gets the parsed arguments; returns the exit code, None for 0.
      binary: which flags there are.
      argv: the command line, program first.

    Returns:
      main's exit code; 2 for a wrong command line, 1 for an error while running, 130 for Ctrl-C outside training.
    """
    debug = bool({"--debug", "-debug", "--debug=true"} & set(argv[1:]))
    if not debug:
        backend.quiet()
    backend.collect_seldom()
    try:
        arguments = parse(binary, argv)
        if isinstance(arguments, str):
            print(arguments, flush=True)
            return 0
        debug = arguments.flags.debug
        if not debug:
            backend.quiet_absl()
        _start_backend(arguments)
        backend.use_compilation_cache()  # its place depends on the number of threads
        code = _call(main, binary, arguments) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # the reader has gone (`| head`): without this Python complains once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"error: {message(error, binary.smaller)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _call(main: Callable[[Arguments], int | None], binary: Binary, arguments: Arguments) -> int | None:
    address = getattr(arguments.flags, "workdir", "")
    if binary.trains or not in_bucket(address):
        return main(arguments)
    with folder_to_read(address) as arguments.flags.workdir:
        return main(dataclasses.replace(arguments, address=address.rstrip("/")))


def message(error: Exception, smaller: str = _SMALLER) -> str:
    """One line for people: what went wrong and, where that is known, what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"out of memory: turn down {smaller}"
    if "Gloo" in text and "Connection" in text:
        return "another process of this run has ended: the same command goes on from the newest checkpoint"
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif not isinstance(error, (UserError, ValueError, OSError)):
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} ... (--debug shows all)"


def parse(binary: Binary, argv: Sequence[str]) -> Arguments | str:
    """A command line's arguments, or the text that it asks for (--help, --recipe=list).

    Raises:
      UsageError: an unknown flag, a wrong type, an impossible value: what was expected, and the nearest name.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    define_leaves(binary.leaves, values)
    try:
        words = values.read_flags_from_files(list(argv[1:]))
    except (flags.Error, OSError, UnicodeDecodeError) as error:
        raise UsageError(str(error).removeprefix("ERROR:: ")) from None
    title = _recipe_title(binary, words)
    if title == "list":
        return recipe_files.table(binary.package)
    wants_help = any(_name(word) in _HELP for word in _before_dashes(words))
    recipe = _load(binary, title, wants_help)
    if wants_help:
        return _help(binary, recipe)
    if recipe is not None:
        define_flags(recipe.config, values)
    positional = _parse_words(values, words)
    found = {leaf.name: _plain(values[leaf.name].value) for leaf in binary.leaves}
    if positional and "input" not in binary.flags:
        raise UsageError(f"unexpected argument {positional[0]!r}: flags are written --name=value")
    if positional:
        found["input"] = (*found["input"], *positional)
    config = _config(recipe, values)
    given = frozenset(name for name in values if values[name].present)
    command = shlex.join(["python", "-m", f"experiments.{binary.program}", *argv[1:]])
    return Arguments(binary.program, SimpleNamespace(**found), given, recipe, config, command)


def _recipe_title(binary: Binary, words: Sequence[str]) -> str:
    """The last --recipe: it must be known before the other flags are, because it defines them."""
    title = binary.default_recipe
    if "recipe" not in binary.flags:
        return ""
    before = list(_before_dashes(words))
    for word, following in zip(before, [*before[1:], ""], strict=False):
        if _name(word) == "recipe":
            title = word.split("=", 1)[1] if "=" in word else following
    return title


def _load(binary: Binary, title: str, wants_help: bool) -> recipe_files.Recipe | None:
    if "recipe" not in binary.flags or (wants_help and not title):
        return None
    if not title:
        raise UsageError("--recipe=NAME is necessary; --recipe=list shows all")
    return recipe_files.load(title, binary.package)


def _config(recipe: recipe_files.Recipe | None, values: flags.FlagValues) -> Any:
    if recipe is None:
        return None
    try:
        return config_from_flags(recipe.config, values)
    except (ValueError, UserError) as error:  # from a dataclass's own check of values that exclude each other
        raise UsageError(str(error)) from None


def _parse_words(values: flags.FlagValues, words: Sequence[str]) -> list[str]:
    """Sets the flags; returns what is left: positional arguments."""
    before = list(_before_dashes(words))
    for word, following in zip(before, [*before[1:], None], strict=False):
        name = _name(word)
        takes_value = name in values and not values[name].boolean and "=" not in word
        if takes_value and (following is None or following.startswith("--")):
            raise UsageError(f"--{name} needs a value: --{name}=...")
    try:
        return values(["program", *words])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UsageError(_unknown(error.flagname, list(values))) from None
    except (flags.Error, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from None


def _unknown(name: str, known: list[str]) -> str:
    near = nearest(name, known, 2) or nearest(name.removeprefix("no"), known, 2)
    hint = f"did you mean {' or '.join(f'--{n}' for n in near)}?" if near else "--help lists all flags"
    return f"unknown flag --{name}; {hint}"


def _help(binary: Binary, recipe: recipe_files.Recipe | None) -> str:
    usage = f"python -m experiments.{binary.program} [--name=value ...]"
    groups = [Group(binary.program, "", (*binary.leaves, *walk(_Always)))]
    summary = binary.summary
    if recipe is not None:
        groups += sections(recipe.config, "recipe")
        line = (recipe.doc.strip().splitlines() or [""])[0]
        summary += f"\n\nThe settings after the first group are those of recipe {recipe.title}"
        summary += f" ({line.rstrip('.')}); with another --recipe, --help shows its own." if line else "."
    return format_help(usage, summary, groups, width_of_terminal())


def _start_backend(arguments: Arguments) -> None:
    values, devices = arguments.flags, 1
    if getattr(values, "seeds_mode", "") == "shard":
        devices = backend.host_devices(values.seeds or 1, backend.cores())
    threads = arguments.recipe.threads if arguments.recipe else None
    deterministic = getattr(values, "deterministic", False)
    if getattr(values, "smoke", False):
        backend.tune_quickly()  # a few steps are sooner done than their kernels are tried
    backend.start_backend(host_devices=devices, deterministic=deterministic, threads=threads)


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    return words[: list(words).index("--")] if "--" in words else words


def _name(word: str) -> str:
    return word.lstrip("-").split("=", 1)[0] if word.startswith("-") else ""


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
