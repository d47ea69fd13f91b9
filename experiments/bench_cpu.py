"""`bench --suite=cpu`: training throughput against PyTorch, convolutions inside the loop, the engine's own overhead."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import backend, bench_torch
from experiments.bench_measure import (
    Bar,
    Result,
    Skipped,
    against,
    alternate,
    ratios,
    seconds_per_step,
    steps_for,
    upper_bound,
)

OVERHEAD = 1.05
PAIRS, OVERHEAD_PAIRS = 15, 30
CHUNKS = 5


@dataclass(frozen=True)
class Workload:
    """A network and the data it is trained on.

    Attributes:
      title: for people.
      image: H, W, C of one input.
      batch: rows of a batch.
      examples: size of the data set, random uint8.
      ours, theirs: make the flax module and the PyTorch one.
    """

    title: str
    image: tuple[int, int, int]
    batch: int
    examples: int
    ours: Callable[[], Any]
    theirs: Callable[[], Any]


def _mlp(*features: int) -> Any:
    from jaxdl.models.mlp import MLP

    return MLP(features)


def _lenet5() -> Any:
    from jaxdl.models.lenet import LeNet5

    return LeNet5()


def _resnet20() -> Any:
    from jaxdl.models.resnet import CifarResNet

    return CifarResNet(20)


WORKLOADS = {
    "mlp_512": Workload(
        "MLP 784-512-512-10, batch 128",
        (28, 28, 1),
        128,
        60_000,
        functools.partial(_mlp, 512, 512),
        functools.partial(bench_torch.mlp, 784, 512, 512, 10),
    ),
    "mlp_64": Workload(
        "MLP 64-64-64-10, batch 32",
        (8, 8, 1),
        32,
        60_000,
        functools.partial(_mlp, 64, 64),
        functools.partial(bench_torch.mlp, 64, 64, 64, 10),
    ),
    "mlp_64_wide": Workload(
        "MLP 784-64-64-10, batch 32",
        (28, 28, 1),
        32,
        60_000,
        functools.partial(_mlp, 64, 64),
        functools.partial(bench_torch.mlp, 784, 64, 64, 10),
    ),
    "lenet5": Workload("LeNet-5 on 28x28, batch 128", (28, 28, 1), 128, 60_000, _lenet5, bench_torch.lenet5),
    "resnet20": Workload("ResNet-20 on 32x32, batch 128", (32, 32, 3), 128, 10_000, _resnet20, bench_torch.resnet20),
}
TORCH_BARS = {
    "mlp_512": Bar(1.6, goal=2.0),
    "mlp_64": Bar(8.0),
    "mlp_64_wide": Bar(8.0),
    "lenet5": Bar(1.0, goal=1.2),
    "resnet20": Bar(0.55, goal=0.9),
}
IN_LOOP = ("lenet5", "resnet20")
OVERHEADS = ("mlp_512", "mlp_64", "lenet5")
CASES = (
    *(f"torch/{name}" for name in TORCH_BARS),
    *(f"in_loop/{name}" for name in IN_LOOP),
    *(f"overhead/{name}" for name in OVERHEADS),
    "dispatches/mlp_64",
)


@functools.lru_cache(maxsize=1)
def random_data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, H, W, C] and labels int32 [n], random."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (workload.examples, *workload.image), np.uint8)
    return images, generator.integers(0, 10, workload.examples, np.int32)


def phase_of(workload: Workload) -> Any:
    """The workload as a phase: uint8 on the device, gathered and standardised in the program, Adam."""
    from jaxdl.data.augment import Transform
    from jaxdl.data.source import Resident
    from jaxdl.engine.experiment import Phase
    from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
    from jaxdl.tasks.classification import classification

    images, labels = random_data(workload)
    config = OptimizerConfig(name="adam", learning_rate=1e-3)
    transform = Transform((float(images.mean()) / 255.0,), (float(images.std()) / 255.0,))
    source = Resident.of({"image": images, "label": labels}, workload.batch, shuffle=True, transform=transform)
    task = classification(workload.ours(), make_optimizer(config, 1), workload.image)
    return Phase("train", task, source, steps=1 << 30, hyper={**hyper_parameters(config), "label_smoothing": 0.0})


def run(cases: tuple[str, ...], repeats: int, seconds: float, traces: str = "") -> Iterator[Result | Skipped]:
    """Measures the cases, in the order of CASES.

    Args:
      cases: names out of CASES.
      repeats: pairs of measurements; 0: PAIRS, for the overhead OVERHEAD_PAIRS.
      seconds: about how long one measurement takes.
      traces: folder for profiles of the cases against PyTorch; "": none.
    """
    measure: dict[str, Callable[..., Result | Skipped]] = {
        "torch": against_torch,
        "in_loop": in_loop,
        "overhead": overhead,
        "dispatches": dispatches,
    }
    for case in cases:
        kind, name = case.split("/")
        count = repeats or (OVERHEAD_PAIRS if kind == "overhead" else PAIRS)
        options = {"traces": traces} if kind == "torch" else {}
        yield measure[kind](name, count, seconds, **options)


def against_torch(name: str, repeats: int, seconds: float, traces: str = "") -> Result | Skipped:
    """Our training step against PyTorch's, per step, both out of their own data in memory."""
    from experiments.bench_loops import Engine

    case = f"torch/{name}"
    if reason := bench_torch.missing():
        return Skipped(case, reason)
    workload = WORKLOADS[name]
    variants = bench_torch.VARIANTS if name in IN_LOOP else bench_torch.VARIANTS[:2]
    data = random_data(workload)
    with bench_torch.threads(backend.cores()) as build:
        return against(
            case,
            f"{workload.title}: time of a PyTorch step over that of ours",
            TORCH_BARS[name],
            Engine(phase_of(workload)),
            {each: bench_torch.Trainer(workload.theirs, *data, workload.batch, each) for each in variants},
            repeats=repeats,
            seconds=seconds,
            most=_most(),
            facts={"torch": build},
            traces=traces,
        )


def in_loop(name: str, repeats: int, seconds: float) -> Result:
    """A convolutional step inside the engine's loop against one program a step."""
    from experiments.bench_loops import Engine, OneByOne

    workload = WORKLOADS[name]
    ours, theirs = Engine(phase_of(workload)), OneByOne(phase_of(workload))
    steps, found = _paired(ours, theirs, ("in_loop", "one_by_one"), repeats, seconds)
    return Result(
        f"in_loop/{name}",
        f"{workload.title}: a step in the engine's loop over the same step dispatched one by one",
        "share",
        ratios(found["in_loop"], found["one_by_one"]),
        Bar(OVERHEAD, at_least=False),
        found,
        "seconds a step",
        facts={"steps": steps},
    )


def overhead(name: str, repeats: int, seconds: float) -> Result:
    """A chunk of the engine against a jitted scan of the same update."""
    from experiments.bench_loops import Engine, Scan

    workload = WORKLOADS[name]
    ours, theirs = Engine(phase_of(workload)), Scan(phase_of(workload))
    steps, found = _paired(ours, theirs, ("engine", "scan"), repeats, seconds)
    values = ratios(found["engine"], found["scan"])
    return Result(
        f"overhead/{name}",
        f"{workload.title}: a chunk of the engine over a jitted, donated scan of the same update",
        "share",
        values,
        Bar(OVERHEAD, at_least=False),
        found,
        "seconds a step",
        bound=upper_bound(values),
        facts={"steps": steps},
    )


def dispatches(name: str, repeats: int, seconds: float) -> Result | Skipped:
    """How many programs the device executes for one chunk."""
    from experiments.bench_loops import Engine, executions

    del repeats, seconds
    case = f"dispatches/{name}"
    engine = Engine(phase_of(WORKLOADS[name]))
    engine(2)
    try:
        counts = [float(executions(functools.partial(engine, 2))) for _ in range(CHUNKS)]
    except LookupError as error:
        return Skipped(case, str(error))
    return Result(
        case,
        "programs executed for a chunk, counted by JAX's profiler",
        "count",
        counts,
        Bar(1.0, at_least=False),
        {"executions": counts},
        "",
    )


def _paired(ours: Any, theirs: Any, names: tuple[str, str], repeats: int, seconds: float) -> tuple[int, dict]:
    steps = steps_for(ours, seconds, _most())
    theirs(steps)  # compiles for this length
    sides = {
        side: functools.partial(seconds_per_step, run, steps) for side, run in zip(names, (ours, theirs), strict=True)
    }
    return steps, alternate(sides, repeats)


def _most() -> int:
    from jaxdl.engine.loop import CHUNK_LARGEST

    return CHUNK_LARGEST
