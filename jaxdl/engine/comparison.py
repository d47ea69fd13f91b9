"""Two runs of one configuration compared along the way: the first row, then the first array, in which their bits differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.folder import RunFolder, differences
from jaxdl.engine.watcher import Compiled, Watcher

_RECORDED = ("status", "steps", "params_digest", "state_digest", "metrics", "best")
_WHERE = ("step", "phase", "split")
_TIMES = ("elapsed", "compile")
_OTHER_ROWS = "training was logged at other steps: its rows are means of other steps and are not compared"


@dataclass(frozen=True)
class Comparison:
    """How a run (here) differs from an earlier one of the same configuration (there).

    Attributes:
      differing: what is not equal: keys of record.json, "config.json", "metrics.jsonl", "checkpoint 500"; empty: all is.
      lines: for people, what comes first first; of equal runs what was not compared.
      steps: checkpoints that both have and whose arrays were compared.
    """

    differing: tuple[str, ...]
    lines: tuple[str, ...]
    steps: tuple[int, ...]


def compare_runs(there: RunFolder, here: RunFolder) -> Comparison:
    """Compares configuration, record, every row of metrics.jsonl and the checkpoints of the same steps, bit for bit.

    How often training is logged may have changed when the earlier run was resumed. Then what is a mean over the steps since
    the last row (training rows and metrics, open sums) is left out.

    Raises:
      UserError: if a file of either cannot be read.
    """
    old, new = (folder.read_json("record.json") or {} for folder in (there, here))
    rows_there, rows_here = there.rows(), here.rows()
    alike = _logged_alike(rows_there, rows_here)
    if not alike:
        rows_there, rows_here = ([row for row in rows if row["split"] != "train"] for rows in (rows_there, rows_here))
        old, new = _without_training(old), _without_training(new)
    differing = [name for name in _RECORDED if old.get(name) != new.get(name)]
    lines = [] if alike else [_OTHER_ROWS]
    config_there, config_here = (folder.read_json("config.json") or {} for folder in (there, here))
    for line in differences(config_there, config_here, may_grow=False):
        differing.append("config.json")
        lines.append(f"config.json: {line}")
    row = first_row(rows_there, rows_here)
    if row is not None:
        differing.append("metrics.jsonl")
        lines.append(f"first difference: {row}")
    saved = [Checkpoints(folder.path / "checkpoints") for folder in (there, here)]
    steps = [step for step in saved[0].steps() if step in saved[1].steps()]
    arrays = []
    for step in steps:
        found = _checkpoint(step, saved[0], saved[1], alike)
        if found is not None:
            differing.append(f"checkpoint {step}")
            arrays.append(found)
    return Comparison(tuple(dict.fromkeys(differing)), (*lines, *arrays[:1]), tuple(steps))


def first_row(there: list[dict[str, Any]], here: list[dict[str, Any]]) -> str | None:
    """The first place where two metrics.jsonl differ: "step 250, train/loss 0.4321 there, 0.4322 here"; None if nowhere."""
    for old, new in zip(there, here, strict=False):
        if old == new:
            continue
        if any(old.get(name) != new.get(name) for name in _WHERE):
            return f"the row of {_place(old)} there is one of {_place(new)} here"
        name = next(name for name in (*old, *new) if old.get(name, "absent") != new.get(name, "absent"))
        values = [row.get(name, "absent") for row in (old, new)]
        return f"step {old.get('step')}, {old.get('split')}/{name} {values[0]} there, {values[1]} here"
    if len(there) != len(here):
        more, where = (there, "there") if len(there) > len(here) else (here, "here")
        return f"the row of {_place(more[min(len(there), len(here))])} is only {where}"
    return None


def first_array(there: Mapping[str, np.ndarray], here: Mapping[str, np.ndarray]) -> str | None:
    """The first array, parameters before all others, that differs in any bit, by name and size of the difference."""
    names = sorted({*there, *here}, key=_rank)
    found = [name for name in names if not _equal(there.get(name), here.get(name))]
    if not found:
        return None
    name = found[0]
    count = f"; {len(found)} of {len(names)} arrays differ"
    if name not in there or name not in here:
        return f"{_short(name)} (only {'there' if name in there else 'here'}{count})"
    old, new = there[name], here[name]
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{_short(name)} ({old.dtype}{list(old.shape)} there, {new.dtype}{list(new.shape)} here{count})"
    return f"{_short(name)} (max |difference| {_distance(old, new):.2g}{count})"


class Alongside:
    """A watcher that says where a run begins to differ from an earlier one as soon as it does.

    Args:
      there: the earlier run's folder.
      here: the folder that is being trained.
      watcher: who is told, of this and of all else.
    """

    def __init__(self, there: RunFolder, here: RunFolder, watcher: Watcher):
        self.watcher, self._told = watcher, False
        self._rows = _following(here)
        # training rows and others apart: there may be other training rows, see `compare_runs`
        rows = there.rows()
        self._expected = {train: iter([row for row in rows if (row["split"] == "train") == train]) for train in (0, 1)}
        self._alike: bool | None = None

    def update(self, step: int, total: int, metrics: dict[str, float], items_per_second: float) -> None:
        """Compares the rows that are new."""
        while not self._told and (new := next(self._rows)) is not None:
            train = new["split"] == "train"
            old = next(self._expected[train], None)
            there = [] if old is None else [old]
            if train and self._alike is None:
                self._alike = _logged_alike(there, [new])
            if train and not self._alike:
                continue
            found = first_row(there, [new])
            if found is not None:
                self._told = True
                self.watcher.say(f"it begins to differ: {found}")
        self.watcher.update(step, total, metrics, items_per_second)

    def compiled(self, found: Compiled) -> None:
        """Passes it on."""
        self.watcher.compiled(found)

    def say(self, line: str) -> None:
        """Passes it on."""
        self.watcher.say(line)


def _following(folder: RunFolder) -> Iterator[dict[str, Any] | None]:
    """Rows of metrics.jsonl as they are written; None while there is no new one."""
    done = 0
    while True:
        rows = folder.rows(done)
        done += len(rows)
        yield from rows
        yield None


def _logged_alike(there: list[dict[str, Any]], here: list[dict[str, Any]]) -> bool:
    """Whether the first training rows are of one step: a run that logs at other steps does so from the first row on."""
    first = [next((row["step"] for row in rows if row["split"] == "train"), None) for rows in (there, here)]
    return None in first or first[0] == first[1]


def _without_training(record: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {name: value for name, value in record.get("metrics", {}).items() if not name.startswith("train/")}
    return {**record, "metrics": metrics}


def _checkpoint(step: int, there: Checkpoints, here: Checkpoints, alike: bool) -> str | None:
    try:
        (old, about_old), (new, about_new) = there.load(step), here.load(step)
    except ValueError as error:
        return f"checkpoint {step} cannot be compared: {error}"
    unlike = _TIMES if alike else (*_TIMES, "lines")
    if not alike:
        old, new = ({n: a for n, a in arrays.items() if not n.startswith("sums/")} for arrays in (old, new))
    found = first_array(old, new)
    if found is not None:
        return f"first array that differs at step {step}: {found}"
    places = [{**about["position"], **dict.fromkeys(unlike)} for about in (about_old, about_new)]
    name = next((name for name in places[0] if places[0][name] != places[1].get(name)), None)
    if name is None:
        return None
    return f"checkpoint {step}: arrays equal, but {name} is {places[0][name]} there, {places[1].get(name)} here"


def _place(row: Mapping[str, Any]) -> str:
    return f"step {row.get('step')}, {row.get('split')}, phase {row.get('phase')}"


def _rank(name: str) -> tuple[int, str]:
    parts = name.split("/")
    if parts[0] == "state":
        return (0 if parts[1] == "nets" and "params" in parts[3:4] else 1), name
    return (2 if parts[0] == "best" else 3), name


def _short(name: str) -> str:
    return name.removeprefix("state/")


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a.tobytes() == b.tobytes()  # bits: two NaN are equal, 0.0 and -0.0 are not


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    distance = np.abs(a - b)[np.isfinite(a) & np.isfinite(b)]
    odd = np.isfinite(a) != np.isfinite(b)
    return float("nan") if odd.any() else float(distance.max(initial=0.0))
