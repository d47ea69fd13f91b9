"""The binary `sweep` on the recipes of the tests."""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "engine"))
sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from experiments import cli, sweep, train

BINARY = dataclasses.replace(sweep.BINARY, package="sweep_recipes")
TRAIN = dataclasses.replace(train.BINARY, package="sweep_recipes", default_recipe="")

if __name__ == "__main__":
    cli.run(sweep.main, BINARY)
