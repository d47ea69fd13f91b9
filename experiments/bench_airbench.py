"""airbench_cifar10 to its end on a GPU, beside the published network in PyTorch on the same images."""

import dataclasses
from typing import Any

import numpy as np

from experiments.bench_measure import Bar, Result

RECIPE = "airbench_cifar10:all"
PUBLISHED = 0.94
SECONDS = 10.0


def airbench(tiny: bool, repeats: int, seconds: float, traces: str) -> Result:
    """RECIPE in bfloat16 to its end, in one chunk, `repeats` seeds one after another, and their test accuracies.

    On images that are not the published ones (recompressed), what must be reached is what the published network reaches in
    PyTorch, where PyTorch sees a GPU: a difference within its 95 % interval counts as none.

    Raises:
      UserError: cifar10 is not prepared.
    """
    del seconds
    from experiments import recipe_files
    from experiments.bench_loops import Engine, trained
    from experiments.session import open_recipe
    from jaxdl.data.datasets import load

    case, recipe = "airbench/cifar10", recipe_files.load(RECIPE)
    config = recipe.config
    if tiny:
        small = dataclasses.replace(config.train, steps=2, batch_size=8, eval_batch_size=8)
        model, data = (dataclasses.replace(config.model, widths=(4,)), dataclasses.replace(config.data, limit=64))
        config = dataclasses.replace(config, train=small, model=model, data=data)
    experiment = open_recipe(recipe, config, "bfloat16").experiment
    phase, test = experiment.phases[0], experiment.final["test"]
    engine = Engine(phase)
    took, accuracies = [], []
    for seed in range(repeats):
        took.append(trained(engine, config.train.steps, case, "" if seed else traces, seed))
        accuracies.append(float(engine.evaluate(test.replace(size=16) if tiny else test)["accuracy"][0]))
    facts = {
        "test accuracies": accuracies,
        "mean test accuracy": float(np.mean(accuracies)),
        "updates": config.train.steps,
        "seconds to compile, or to read compiled programs": engine.program.compile_seconds,
    }
    name, measurements = experiment.data["name"], {"jaxdl": took}
    enough = facts["mean test accuracy"] >= PUBLISHED
    if name != "cifar10" and not tiny and _torch_has_gpu():
        theirs = _in_torch(load(config.data), config.train.steps, repeats)
        measurements["PyTorch"], facts["PyTorch: test accuracies"] = map(list, zip(*theirs, strict=True))
        enough = enough or no_worse(accuracies, facts["PyTorch: test accuracies"])
        facts["PyTorch: mean test accuracy"] = float(np.mean(facts["PyTorch: test accuracies"]))
    what = described(
        name, accuracies, enough, measurements.get("PyTorch", []), facts.get("PyTorch: test accuracies", [])
    )
    bar = Bar(SECONDS, at_least=False) if enough else None
    return Result(case, what, "seconds", took, bar, measurements, "seconds", facts=facts)


def described(name: str, ours: list[float], enough: bool, seconds: list[float], theirs: list[float]) -> str:
    """What was measured: our mean test accuracy, and the published network's beside it where PyTorch trained it.

    Args:
      name: of the data.
      ours, theirs: test accuracies, one a seed.
      enough: whether ours is what it must be.
      seconds: PyTorch's, one a seed.
    """
    short = "" if enough else ", which is too few for a bar,"
    text = f"{RECIPE} on {name}, bfloat16: seconds of training, to {100 * np.mean(ours):.2f} %{short} on the test split"
    if not theirs:
        return text
    return f"{text}; the published network in PyTorch: {np.median(seconds):.2f} s, {100 * np.mean(theirs):.2f} %"


def no_worse(ours: list[float], theirs: list[float]) -> bool:
    """Whether the mean of `ours` is above that of `theirs`, or below it by no more than Welch's 95 % interval."""
    from scipy import stats

    gap = float(np.mean(ours) - np.mean(theirs))
    if gap >= 0.0 or min(len(ours), len(theirs)) < 2:
        return gap >= 0.0
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return bool(interval.high >= 0.0)


def _torch_has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _in_torch(dataset: Any, steps: int, repeats: int) -> list[tuple[float, float]]:
    """Seconds and test accuracy of each seed; a first run of a few updates starts its kernels."""
    from experiments.bench_torch_airbench import Airbench

    train, test = dataset.splits["train+validation"], dataset.splits["test"]
    Airbench(train, test, dataset.mean, dataset.std, 5).run(0)
    whole = Airbench(train, test, dataset.mean, dataset.std, steps)
    return [whole.run(seed) for seed in range(repeats)]
