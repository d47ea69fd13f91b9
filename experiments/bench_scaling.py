"""`bench --suite=scaling`: seconds of a training step against seeds, batch, width, sequence length and devices.

Each curve is measured in a process of its own, the sizes in turns, so that what slows the machine down for a while slows
all of them. The ideal line is the curve's own arithmetic at the best rate that any of its points reaches.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.bench_measure import Skipped, aligned, alternate, quartiles, seconds_per_step, steps_for
from experiments.bench_process import job
from jaxdl.errors import UserError

REPEATS = 5
PIXELS, CLASSES, BATCH = 784, 10, 128
ROWS = 4
# label -> sizes -> one step's seconds in each repetition
Times = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Curve:
    """What grows, and what is trained meanwhile.

    Attributes:
      title: what is trained.
      axis: what grows, with its unit.
      sizes: of it.
      series: label -> (size -> an engine's arguments: phase, seeds, mode, devices).
      work: size -> arithmetic of a step, up to a factor.
      ideal: what the ideal line stands for.
      forced: whether each size is measured on so many devices, which on a CPU are made for it.
    """

    title: str
    axis: str
    sizes: tuple[int, ...]
    series: Mapping[str, Callable[[int], tuple]]
    work: Callable[[int], float]
    ideal: str = "same FLOP/s at every size"
    forced: bool = False


@dataclass(frozen=True)
class Measured:
    """A curve with its measurements.

    Attributes:
      case: the curve's name.
      curve: see Curve.
      sizes: those that were measured.
      times: label -> [N][R] seconds a step.
    """

    case: str
    curve: Curve
    sizes: tuple[int, ...]
    times: dict[str, list[list[float]]]

    @property
    def ideal(self) -> list[float]:
        """Seconds a step at each size, if all went at the best rate of the curve."""
        work = [self.curve.work(size) for size in self.sizes]
        medians = [[quartiles(values)[1] for values in rows] for rows in self.times.values()]
        best = min(seconds / w for row in medians for seconds, w in zip(row, work, strict=True))
        return [best * w for w in work]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with medians and quartiles."""
        series = {}
        for label, rows in self.times.items():
            points = []
            for size, values in zip(self.sizes, rows, strict=True):
                low, median, high = quartiles(values)
                points.append({"size": size, "values": values, "median": median, "quartiles": [low, high]})
            series[label] = points
        return {
            "case": self.case,
            "what": f"{self.curve.title}: seconds of a step against {self.curve.axis}",
            "axis": self.curve.axis,
            "unit": "seconds a step",
            "series": series,
            "ideal": {"what": self.curve.ideal, "values": self.ideal},
        }

    def table(self) -> str:
        """Milliseconds of each size, and how many times the ideal they are."""
        rows = [(self.curve.axis, *self.times)]
        for i, (size, ideal) in enumerate(zip(self.sizes, self.ideal, strict=True)):
            spread = [quartiles(times[i]) for times in self.times.values()]
            cells = (
                f"{1e3 * m:.3g} ms ({1e3 * low:.3g} to {1e3 * high:.3g}) {m / ideal:5.2f}×" for low, m, high in spread
            )
            rows.append((str(size), *cells))
        return "\n".join([self.curve.title, *(f"  {line}" for line in aligned(rows))])


# --- what is trained ----------------------------------------------------------------------------------------------------


def _mlp_phase(batch: int, *features: int, image: tuple[int, int, int] = (28, 28, 1)) -> Any:
    from experiments.bench_cpu import Workload, phase_of
    from jaxdl.models.mlp import MLP

    examples = max(4096, batch)
    return phase_of(Workload("", image, batch, examples, lambda: MLP(features), lambda: None))


def _mlp_work(batch: int, width: int) -> float:
    return batch * (PIXELS * width + width * width + width * CLASSES)


def _gpt_config(length: int) -> Any:
    from experiments.bench_families import FAMILIES

    config = FAMILIES["torch/char_gpt"].config()
    data = dataclasses.replace(config.data, length=length)
    return dataclasses.replace(config, data=data, train=dataclasses.replace(config.train, batch_size=ROWS))


def _gpt_phase(length: int) -> Any:
    from experiments.bench_families import FAMILIES

    return FAMILIES["torch/char_gpt"].ours(_gpt_config(length))


def _gpt_work(length: int) -> float:
    """Products of a step of 4 blocks of 128 features: 12 D^2 weights a block, scores for 65 characters; see `mfu`."""
    from experiments.mfu import transformer_flops

    layers, features, vocabulary = 4, 128, 65
    weights = layers * 12 * features**2 + vocabulary * features
    return ROWS * length * transformer_flops(weights, layers, features, length)


def _spread(batch: int, devices: int) -> tuple:
    import jax

    found = tuple(jax.local_devices()[:devices])
    if len(found) < devices:
        raise UserError(f"there are only {len(found)} devices")
    return _mlp_phase(batch, 512, 512), 1, "map", found


CURVES = {
    "seeds": Curve(
        "MLP 64-64-64-10, batch 32, seeds in one program",
        "seeds (number)",
        (1, 2, 4, 8, 16, 32, 64),
        {
            "map": lambda n: (_mlp_phase(32, 64, 64, image=(8, 8, 1)), n, "map"),
            "vmap": lambda n: (_mlp_phase(32, 64, 64, image=(8, 8, 1)), n, "vmap"),
        },
        float,
    ),
    "batch": Curve(
        "MLP 784-512-512-10",
        "batch (examples)",
        (8, 16, 32, 64, 128, 256, 512, 1024, 2048),
        {"one seed": lambda n: (_mlp_phase(n, 512, 512),)},
        lambda n: _mlp_work(n, 512),
    ),
    "width": Curve(
        "MLP 784-w-w-10, batch 128",
        "width w (units)",
        (32, 64, 128, 256, 512, 1024, 2048),
        {"one seed": lambda n: (_mlp_phase(BATCH, n, n),)},
        lambda n: _mlp_work(BATCH, n),
    ),
    "length": Curve(
        "GPT of 4 layers, 128 features, 4 rows",
        "sequence length (characters)",
        (16, 32, 64, 128, 256, 512, 1024),
        {"one seed": lambda n: (_gpt_phase(n),)},
        _gpt_work,
    ),
    "devices": Curve(
        "MLP 784-512-512-10, batch 512 split over devices",
        "devices (number)",
        (1, 2, 4, 8),
        {"jit": lambda n: _spread(512, n)},
        lambda n: 1.0,
        "same time: the devices are parts of one CPU",
        forced=True,
    ),
}
CASES = tuple(CURVES)


# --- measuring ----------------------------------------------------------------------------------------------------------


def run(cases: tuple[str, ...], repeats: int, seconds: float, platform: str = "cpu") -> Iterator[Measured | Skipped]:
    """Measures the curves.

    Args:
      cases: names out of CURVES.
      repeats: measurements of each point; 0: REPEATS.
      seconds: about how long one takes.
      platform: of the devices; on "cpu" several are parts of one.
    """
    for case in cases:
        curve = CURVES[case]
        if curve.forced and platform != "cpu":
            ideal = "the best of all, in proportion to the devices"
            curve = dataclasses.replace(curve, work=lambda n: 1.0 / n, ideal=ideal)
        arguments = {"case": case, "repeats": repeats or REPEATS, "seconds": seconds}
        try:
            if curve.forced:
                found = on_devices(curve, arguments)
            else:
                found = job("bench_scaling:points", arguments | {"sizes": list(curve.sizes)})
        except UserError as error:
            yield Skipped(case, str(error))
            continue
        yield from_points(case, curve, found)


def on_devices(curve: Curve, arguments: Mapping[str, Any]) -> Times:
    """The points of a curve over devices, each in a process that has so many; as many as there are.

    Raises:
      UserError: not even the first can be measured.
    """
    found: Times = {label: {} for label in curve.series}
    for size in curve.sizes:
        try:
            part = job("bench_scaling:points", {**arguments, "sizes": [size]}, devices=size)
        except UserError:
            if size == curve.sizes[0]:
                raise
            break
        for label, times in part.items():
            found[label] |= times
    return found


def from_points(case: str, curve: Curve, found: Times) -> Measured:
    """A curve from what `points` returned for all its sizes."""
    sizes = tuple(int(size) for size in next(iter(found.values())))
    return Measured(case, curve, sizes, {label: list(times.values()) for label, times in found.items()})


def points(case: str, sizes: Sequence[int], repeats: int, seconds: float) -> Times:
    """Seconds a step at each of `sizes`, all measured in turns in this process."""
    from experiments.bench_loops import Engine

    sides: dict[tuple[str, int], Callable[[], float]] = {}
    for label, make in CURVES[case].series.items():
        for size in sizes:
            engine = Engine(*make(size))
            steps = steps_for(engine, seconds, 4096)
            sides[label, size] = functools.partial(seconds_per_step, engine, steps)
    names = {f"{label} {size}": (label, size) for label, size in sides}
    taken = alternate({name: sides[key] for name, key in names.items()}, repeats)
    found: Times = {}
    for name, (label, size) in names.items():
        found.setdefault(label, {})[str(size)] = taken[name]
    return found


def table(found: Sequence[Measured | Skipped]) -> str:
    """All curves for people."""
    parts = [f"{each.case}: {each.reason}" if isinstance(each, Skipped) else each.table() for each in found]
    return "\n\n".join(parts) + "\n\n(quartiles in brackets; ×: times the ideal line)"


def draw(found: Sequence[Measured | Skipped], path: pathlib.Path) -> list[pathlib.Path]:
    """Writes one figure a curve beside the results file `path`, and returns where."""
    from jaxdl.reports.page import Figure, render_png
    from jaxdl.reports.scaling import draw_scaling

    written = []
    for each in found:
        if isinstance(each, Skipped):
            continue
        series = {label: np.asarray(rows) for label, rows in each.times.items()}
        curve = each.curve
        about = (curve.title, curve.axis, each.sizes, series, each.ideal, f"ideal: {curve.ideal}")
        target = path.with_name(f"{path.stem}-{each.case}.png")
        # drawn by render_png, in the report's style
        target.write_bytes(render_png(Figure(target.stem, curve.title, functools.partial(draw_scaling, *about)))[0])
        written.append(target)
    return written
