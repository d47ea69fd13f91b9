"""A binary that prints its parsed command line as JSON; tests run it in a process of its own."""

import json
import sys
from dataclasses import dataclass

from experiments import cli
from experiments.flags import leaves, option
from jaxdl.errors import UserError


@dataclass(frozen=True)
class Options:
    fail: str = option("", "error to end with", choices=("", "user", "value", "file", "type", "memory"))
    grid: tuple[str, ...] = option((), "NAME=VALUES to try; repeat the flag for more", repeated=True)


BINARY = cli.Binary(
    program="stub",
    summary="Trains nothing.",
    flags=("recipe", "workdir", "seed", "seeds", "seeds_mode", "parallel", "smoke", "deterministic"),
    options=Options(),
    default_recipe="line",
    package="stub_recipes",
)
ERRORS = {
    "user": UserError("the run folder is in use\nby process 7"),
    "value": ValueError("bad value"),
    "file": FileNotFoundError(2, "No such file or directory", "digits.png"),
    "type": TypeError("a bug"),
    "memory": RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"),
}


def main(arguments: cli.Arguments) -> None:
    if arguments.flags.fail:
        raise ERRORS[arguments.flags.fail]
    print(
        json.dumps(
            {
                "title": arguments.recipe.title,
                "folder": arguments.recipe.folder,
                "config": leaves(arguments.config),
                "flags": vars(arguments.flags),
                "given": sorted(arguments.given),
                "jax": "jax" in sys.modules,
            }
        )
    )


if __name__ == "__main__":
    cli.run(main, BINARY)
