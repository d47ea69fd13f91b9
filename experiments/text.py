"""Character language models as experiments: what recurrent networks and Transformers share."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxdl.data.text import Corpus, load_text, read_text
from jaxdl.data.text_source import Streams, WholeText, Windows
from jaxdl.engine.experiment import Experiment, Phase
from jaxdl.optimizers import depends_on_total_steps, describe, hyper_parameters, make_optimizer
from jaxdl.tasks.language_modelling import LanguageModelling, language_modelling

OBJECTIVE = ("validation/loss", "min")
# rows of evaluation for models with a carry: the characters that count, and those read before to fill the state
CARRIED_ROW, CARRIED_CONTEXT = 512, 128


def language_model(config: Any, model_for: Callable[[int], nn.Module], context: int = 0, **changes: Any) -> Experiment:
    """One phase of training on a text by characters, judged by validation loss in nats per character.

    A model with `zero_carry` is trained by truncated backpropagation through time on contiguous streams; any other on
    shuffled windows of `config.data.length` characters. Validation and test are read once from end to end: by models with
    a carry in rows of 512 characters after 128 that do not count, by others in windows of `config.data.length`.

    Args:
      config: a recipe's, with `data` (TextConfig), `optimizer` and `train`; `config.model.dropout`, where it is not 0,
        is a hyper-parameter, and the model is called with `dropout=...` in training.
      model_for: number of characters V -> a model (see `jaxdl.tasks.language_modelling.LanguageModelling`).
      context: for models without a carry, how many characters of each window of evaluation do not count.
      **changes: fields of Experiment that differ.
    """
    corpus = load_text(config.data)
    model = model_for(len(corpus.vocabulary))
    task = task_for(config, model)
    hyper = hyper_parameters(config.optimizer)
    if "dropout" in task.arguments:
        hyper["dropout"] = config.model.dropout
    evaluation = evaluations(config, corpus, task, context)
    phase = Phase(
        name="train",
        task=task,
        source=training_source(config, corpus, task),
        steps=config.train.steps,
        hyper=hyper,
        evaluations={"validation": evaluation["validation"]},
        objective=OBJECTIVE,
        patience=config.train.patience,
    )
    return experiment_for(config, phase, corpus, evaluation, **changes)


def task_for(config: Any, model: nn.Module) -> LanguageModelling:
    """The task of a model on texts."""
    return language_modelling(
        model,
        make_optimizer(config.optimizer, config.train.steps),
        config.train.batch_size,
        config.data.length,
        # a rate of 0 is not handed on: noise that changes nothing would still be drawn
        arguments=("dropout",) if getattr(config.model, "dropout", 0.0) > 0 else (),
        accumulate=config.train.accumulate,
        ema_decay=config.optimizer.ema_decay,
    )


def training_source(config: Any, corpus: Corpus, task: LanguageModelling) -> Streams | Windows:
    """Contiguous streams for a model with a carry, shuffled windows for any other."""
    kind = Streams if task.streams else Windows
    return kind.of(corpus.splits["train"], config.train.batch_size, config.data.length)


def evaluations(config: Any, corpus: Corpus, task: LanguageModelling, context: int) -> dict[str, WholeText]:
    """Split -> all of its characters, each once."""
    length, before = (CARRIED_ROW, CARRIED_CONTEXT) if task.streams else (config.data.length - context, context)
    rows = config.train.eval_batch_size
    splits = {split: text for split, text in corpus.splits.items() if split != "train"}
    return {split: WholeText.of(text, rows, length, corpus.start, before) for split, text in splits.items()}


def experiment_for(
    config: Any, phase: Phase, corpus: Corpus, evaluation: dict[str, WholeText], **changes: Any
) -> Experiment:
    """The experiment of a language model: report, user's files for predict, text for sample, n-grams for --check."""
    from experiments.text_report import baselines, report
    from experiments.text_samples import sample

    experiment = Experiment(
        name="",
        phases=(phase,),
        train=config.train,
        final={split: source for split, source in evaluation.items() if split != "validation"},
        data={"name": corpus.name, "version": corpus.version, "fingerprint": corpus.fingerprint},
        items="characters",
        report=lambda view: report(view, corpus),
        read_input=reader(corpus),
        input_source=lambda row: evaluation["validation"].over(row["text"]),
        show=describe_prediction,
        sample=lambda view, request: sample(view, request, corpus),
        check=lambda: baselines(corpus),
        expected_loss=math.log(len(corpus.vocabulary)),
        facts={"data": sizes(corpus), "optimiser": describe(config.optimizer)},
        steps_may_grow=not depends_on_total_steps(config.optimizer),
    )
    return dataclasses.replace(experiment, **changes)


def sizes(corpus: Corpus) -> str:
    """ "tiny_shakespeare: 1,003,854 train, 111,540 validation; 65 characters"."""
    order = [split for split in ("train", "validation", "test") if split in corpus.splits]
    parts = [f"{len(corpus.splits[split]):,} {split}" for split in order]
    return f"{corpus.name}: {', '.join(parts)}; {len(corpus.vocabulary)} characters"


def reader(corpus: Corpus) -> Callable[[str], dict]:
    """A user's text file -> {"text": [1 + n] token numbers}, after the token that stands before a text."""

    def read(path: str) -> dict:
        import numpy as np

        tokens = corpus.vocabulary.encode(read_text(path), path)
        return {"text": np.concatenate([np.asarray([corpus.start], tokens.dtype), tokens])}

    return read


def describe_prediction(outputs: dict) -> dict:
    """What a model makes of a user's text: the loss over all of its characters."""
    import numpy as np

    counted = outputs["weight"] > 0
    nats = float(np.mean(outputs["nats"][counted], dtype=np.float64))
    right = float(np.mean(outputs["right"][counted]))
    count = int(counted.sum())
    measured = {"nats": nats, "bits": nats / math.log(2), "perplexity": math.exp(nats), "accuracy": right}
    return {"label": f"{count:,} characters", "characters": count, **measured}
