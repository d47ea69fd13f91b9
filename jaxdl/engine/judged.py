"""What is measured once, at the end, on the host: exact likelihoods, BLEU, Fréchet distances, matches against others."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxdl.engine.compiled import collect
from jaxdl.engine.devices import typed
from jaxdl.engine.experiment import Experiment
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.program import stream


@dataclass
class Judged:
    """One seed's reported networks, as `Experiment.judge` sees them.

    Attributes:
      experiment: what was trained; shortened under --smoke, so take data from its phases and its `final`.
      state: canonical State [1, ...] with the reported networks.
      seed: the run's.
    """

    experiment: Experiment
    state: Any
    seed: int
    _outputs: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def key(self) -> jax.Array:
        """The seed's random key for what is drawn in judging."""
        return jax.random.wrap_key_data(stream((self.seed,), "evaluation", len(self.experiment.phases))[0])

    def outputs(self, split: str) -> dict[str, np.ndarray]:
        """What the last phase's task predicts for each example of a split: name -> [n, ...]."""
        if split not in self._outputs:
            phase = self.experiment.phases[-1]
            source = {**phase.evaluations, **self.experiment.final}[split]
            self._outputs[split] = collect(phase.task, self.state, source)
        return self._outputs[split]


def judged_metrics(experiment: Experiment, states: Any, index: int, seed: int, template: Any) -> dict[str, float]:
    """What `experiment.judge` finds for seed number `index` of canonical `states` [S, ...]; nothing without a judge.

    Raises:
      ValueError: a metric that is not called "<split>/<name>".
    """
    if experiment.judge is None:
        return {}
    one = jax.tree.map(lambda leaf: leaf[index : index + 1], states)
    found = experiment.judge(Judged(experiment, typed(one, template), seed))
    for name in found:
        if "/" not in name:
            raise ValueError(f"Experiment.judge must name its metrics <split>/<name>, got {name!r}")
    return {name: float(value) for name, value in found.items()}


def split_rows(found: dict[str, float]) -> list[dict[str, Any]]:
    """{"test/bleu": 0.3} as rows of metrics.jsonl: [{"split": "test", "bleu": 0.3}]."""
    rows: dict[str, dict[str, Any]] = {}
    for name, value in found.items():
        split, metric = name.split("/", 1)
        rows.setdefault(split, {"split": split})[metric] = value
    return list(rows.values())


def last_training_metrics(folder: RunFolder) -> dict[str, float]:
    """The newest training row of metrics.jsonl as {"train/<name>": value}; nothing if there is none."""
    rows = [row for row in folder.rows() if row["split"] == "train"] or [{}]
    return {f"train/{name}": value for name, value in rows[-1].items() if name not in ("step", "phase", "split")}
