"""Dates by translation: what the recipes that turn "3 March 2021" into "2021-03-03" share."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import numpy as np

from experiments.inputs import file_text, named_file
from jaxdl.data.dates import SPECIAL, Dates, load_dates
from jaxdl.data.source import Resident
from jaxdl.engine.experiment import Experiment, Phase
from jaxdl.errors import UserError
from jaxdl.optimizers import depends_on_total_steps, describe, hyper_parameters, make_optimizer
from jaxdl.settings import setting
from jaxdl.tasks.translation import translation

OBJECTIVE = ("validation/exact_match", "max")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    label_smoothing: float = setting(0.0, "share of the target spread over all characters", minimum=0.0, maximum=0.999)


@dataclass(frozen=True)
class DecodeConfig:
    """How translations are searched for in predict and the report; metrics are those of greedy decoding."""

    beams: int = setting(5, "hypotheses that are kept", minimum=1)


def dates_experiment(
    config: Any, model_for: Callable[..., nn.Module], attention: str = "", halves: bool = False, **changes: Any
) -> Experiment:
    """One phase of training by teacher forcing, judged by the share of validation dates that come out right as a whole.

    Args:
      config: a recipe's, with `data`, `model` (with `dropout`), `decode`, `loss`, `optimizer` and `train`.
      model_for: (source vocabulary, target vocabulary, most tokens of either side) -> a model (see
        `jaxdl.tasks.translation.Translation`).
      attention: path of the attention weights that the report shows.
      halves: see `jaxdl.tasks.supervised.Supervised`; worth its compilation where most of the time goes into products.
      **changes: fields of Experiment that differ.
    """
    from experiments.dates_report import report

    data = load_dates(config.data)
    sizes = [SPECIAL + len(vocabulary) for vocabulary in (data.source, data.target)]
    dropout = {"dropout": config.model.dropout} if config.model.dropout > 0 else {}
    task = translation(
        model_for(*sizes, max(data.source_length, data.target_length)),
        make_optimizer(config.optimizer, config.train.steps),
        data.source_length,
        data.target_length,
        beams=config.decode.beams,
        attention=attention,
        halves=halves,
        arguments=tuple(dropout),
        accumulate=config.train.accumulate,
        ema_decay=config.optimizer.ema_decay,
    )
    hyper = {**hyper_parameters(config.optimizer), "label_smoothing": config.loss.label_smoothing, **dropout}

    def evaluation(split: str) -> Resident:
        return Resident.of(data.splits[split], config.train.eval_batch_size, shuffle=False)

    phase = Phase(
        name="train",
        task=task,
        source=Resident.of(data.splits["train"], config.train.batch_size, shuffle=True),
        steps=config.train.steps,
        hyper=hyper,
        evaluations={"validation": evaluation("validation")},
        objective=OBJECTIVE,
        patience=config.train.patience,
    )
    experiment = Experiment(
        name="",
        phases=(phase,),
        train=config.train,
        final={"test": evaluation("test")},
        data={"name": data.name, "version": data.version, "fingerprint": data.fingerprint},
        items="dates",
        report=lambda view: report(view, data),
        read_input=reader(data),
        show=describer(data),
        expected_loss=math.log(sizes[1]),
        facts={"data": described(data), "optimiser": describe(config.optimizer)},
        steps_may_grow=not depends_on_total_steps(config.optimizer),
    )
    return dataclasses.replace(experiment, **changes)


def described(data: Dates) -> str:
    """ "dates: 20,000 train, 1,000 validation, 1,000 test; 26 ways to write, 60 characters"."""
    parts = [f"{len(arrays['source']):,} {split}" for split, arrays in data.splits.items()]
    return f"{data.name}: {', '.join(parts)}; {len(data.formats)} ways to write, {len(data.source)} characters"


def reader(data: Dates) -> Callable[[str], list[tuple[str, dict]]]:
    """--input -> [(date as written, arrays of one example)]: the lines of a file, or the date itself if there is no such file.

    Empty lines are left out.
    """

    def read(given: str) -> list[tuple[str, dict]]:
        path = named_file(given)
        if path is None:
            return [(given, {"source": data.encode(given, f"--input={given}")})]
        lines = file_text(path).splitlines()
        numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        if not numbered:
            raise UserError(f"{given} holds no date: write one a line")
        return [(line, {"source": data.encode(line, f"{given}, line {number}")}) for number, line in numbered]

    return read


def describer(data: Dates) -> Callable[[dict], dict]:
    """Hypotheses of one date -> label, confidence and the most probable translations."""

    def describe(outputs: dict) -> dict:
        found = zip(outputs["hypotheses"], np.asarray(outputs["scores"], np.float64), strict=True)
        top = [{"label": data.decode(tokens), "confidence": float(np.exp(score))} for tokens, score in found]
        return {"label": top[0]["label"], "confidence": top[0]["confidence"], "top": top}

    return describe
