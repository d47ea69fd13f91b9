"""A run's header, its last lines and its report pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdl.engine.folder import RunFolder


@dataclass
class View:
    """A finished run as a report sees it; over seeds, all of them.

    Attributes:
      session: the experiment and its configuration.
      folders: one run folder a seed.
      records: their record.json.
      rows: their metrics.jsonl.
    """

    session: Any
    folders: list[RunFolder]
    records: list[dict]
    rows: list[list[dict]]

    def __post_init__(self):
        self._states: dict[int, Any] = {}
        self._outputs: dict[tuple[int, str], Any] = {}

    @property
    def experiment(self) -> Any:
        """What was trained."""
        return self.session.experiment

    @property
    def done(self) -> list[int]:
        """Indices of the seeds that ended well."""
        return [i for i, record in enumerate(self.records) if record["status"] == "done"]

    @property
    def first(self) -> int:
        """Index of the first seed that ended well; of none the first one, whose newest checkpoint is all there is."""
        return self.done[0] if self.done else 0

    def state(self, i: int) -> Any:
        """The canonical State [1, ...] of seed number `i` with its reported networks."""
        from jaxdl.engine.fit import load_judged

        if i not in self._states:
            self._states[i] = load_judged(self.experiment, self.folders[i])
        return self._states[i]

    def outputs(self, i: int, split: str) -> dict[str, Any]:
        """What the task predicts for each example of a split, in its order: name -> [n, ...]."""
        from jaxdl.engine.compiled import collect

        if (i, split) not in self._outputs:
            phase = self.experiment.phases[-1]
            source = {**phase.evaluations, **self.experiment.final}[split]
            self._outputs[i, split] = collect(phase.task, self.state(i), source)
        return self._outputs[i, split]

    @property
    def layers(self) -> list[str]:
        """Paths of the model's layers in their order, as in "gradient_norm/<path>"; empty where there is no one model."""
        from jaxdl.nn.summary import example_inputs, layer_table

        task = self.experiment.phases[-1].task
        if not (hasattr(task, "model") and hasattr(task, "example")):
            return []
        return [row.path for row in layer_table(task.model, example_inputs(task.example, 1))]

    def values(self, metric: str) -> list[float]:
        """A final metric of each seed that has it."""
        return [self.records[i]["metrics"][metric] for i in self.done if metric in self.records[i]["metrics"]]


def header(session: Any, options: Any, layout: Any) -> None:
    """What is about to run."""
    from jaxdl.engine.options import seeds_mode
    from jaxdl.engine.progress import header as print_header

    devices, seeds = layout.devices, options.seeds
    mesh = f" ({layout.shards} data x {layout.model_parallel} model)" if layout.model_parallel > 1 else ""
    facts = {
        "recipe": session.recipe.title,
        **session.experiment.facts,
        "devices": f"{len(devices)} x {devices[0].device_kind}{mesh}, {options.parallel}, {options.precision}",
        "seed": str(options.seed)
        if seeds is None
        else f"{options.seed} to {options.seed + seeds - 1} ({seeds_mode(options, layout)})",
        "run folder": options.workdir,
    }
    print_header(facts)


def result_block(session: Any, run: Any) -> None:
    """The final metrics and where the report lies."""
    from jaxdl.engine.progress import result

    record = run.records[0]
    metrics: dict[str, float | str] = {}
    facts: dict[str, object] = {}
    if run.summary:
        metrics = {name: over_seeds(found) for name, found in run.summary["metrics"].items()}
    else:
        metrics = {name: value for name, value in record["metrics"].items() if value is not None}
        facts["parameters"] = f"{record['parameters']:,}"
        facts["digest"] = (record["params_digest"] or "")[:16]
    seconds = wall_time(run.records)
    compilation = max(each["compile_time_s"] for each in run.records)
    facts["report"] = run.folder.path / "report.html"
    steps = max(each["steps"] for each in run.records)
    result(
        f"{record['status']}: {steps} steps in {seconds:.1f} s, {compilation:.1f} s of it compilation", metrics, facts
    )


def over_seeds(found: Mapping[str, Any]) -> str:
    """A metric of summary.json in words: mean, half-width of the interval where there is one, number of seeds."""
    interval = f" ± {found['ci95']:.4f}" if found["ci95"] is not None else ""
    return f"{found['mean']:.4f}{interval}  (n = {len(found['values'])})"


def wall_time(records: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that the runs of some records took; seeds of one program name its time each, and it counts once."""
    return sum({(each["wall_time_s"], each["compile_time_s"]): each["wall_time_s"] for each in records}.values())


def write_reports(session: Any, run: Any) -> None:
    """report.html and plots/ of the run folder; over seeds one report of all, above their folders."""
    rows = [folder.rows() for folder in run.folders]
    _write(View(session, run.folders, run.records, rows), run.folder)


def _write(view: View, folder: RunFolder) -> None:
    from jaxdl.reports.curves import learning_curves, phases_section
    from jaxdl.reports.norms import norms_section
    from jaxdl.reports.overview import headline, record_facts
    from jaxdl.reports.page import write_report

    best = [record["best"]["step"] if record["best"] else None for record in view.records]
    judged_best = view.records[0]["reported"] == "best"
    sections = [learning_curves(view.rows, best if judged_best else None)]
    if len(view.experiment.phases) > 1:
        sections.append(phases_section(view.rows))
    headlines = []
    if view.done:
        finals = [name for name in view.records[view.done[0]]["metrics"] if not name.startswith("train/")]
        objective = view.experiment.phases[-1].objective
        judged = objective[0].partition("/")[2] if objective else "accuracy"
        finals.sort(
            key=lambda name: (not name.startswith("test/"), not name.endswith(f"/{judged}"), "accuracy" not in name)
        )
        headlines = [headline(name, view.values(name)) for name in finals[:4]]
        if view.experiment.report is not None:
            sections += view.experiment.report(view)
    sections.append(norms_section(view.rows, view.layers))
    record = dict(view.records[0])
    if len(view.records) > 1:
        record["seeds"] = [each["seed"] for each in view.records]
        record["wall_time_s"] = wall_time(view.records)
    title = f"{record['recipe']}, seed {record['seed']}" if len(view.records) == 1 else f"{record['recipe']} over seeds"
    write_report(folder.path, title, record_facts(record), sections, headlines)
