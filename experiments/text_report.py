"""What the report of a language model shows, and the n-grams that it must beat."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.text import Corpus
from jaxdl.data.text_source import Streams, Windows
from jaxdl.engine.compiled import compiled, one_seed
from jaxdl.models.ngram import NGramModel
from jaxdl.objectives.classification import softmax_cross_entropy
from jaxdl.tasks.supervised import NET

TEMPERATURES = (0.5, 0.8, 1.1)
SAMPLE = 600
# windows over which the reach into the past is averaged
WINDOWS = 64
_ORDERS = (1, 2, 3, 4, 5, 6)
# characters of the split that are compared; all of most
_LARGEST = 1_000_000


@functools.lru_cache(maxsize=2)
def ngram_nats(corpus: Corpus, split: str = "validation") -> dict[int, float]:
    """Window n -> nats per character of a split, by n-grams counted in the training text."""
    classes, train = len(corpus.vocabulary), corpus.splits["train"]
    orders = [n for n in _ORDERS if classes**n < 2**62 and n <= len(train)]
    model = NGramModel.fit(train, orders[-1], classes)
    return {n: model.nats(corpus.splits[split][:_LARGEST], n) for n in orders}


def baselines(corpus: Corpus) -> list[tuple[str, float, str]]:
    """(name, validation loss in nats per character, note) of what a network must beat."""
    return [(f"{n}-gram", nats, "interpolated, Witten-Bell") for n, nats in ngram_nats(corpus).items()]


def report(view: Any, corpus: Corpus) -> list:
    """Sections: comparison with n-grams, curve in bits, samples, surprise, and how the text was cut."""
    from jaxdl.reports.comparison import Contender, comparison_section, seeds_section
    from jaxdl.reports.text import bits_section, memory_section, samples_section, surprise_section

    shown = view.records[view.done[0]]
    counted = ngram_nats(corpus)
    sections = []
    if len(view.records) > 1:
        seeds = [view.records[i]["seed"] for i in view.done]
        names = [name for name in shown["metrics"] if not name.startswith("train/")]
        sections.append(seeds_section(seeds, {name: view.values(name) for name in names}))
    contenders = [Contender(shown["recipe"], view.values("validation/loss"), ours=True)]
    contenders += [Contender(name, value, note) for name, value, note in baselines(corpus)]
    note = f"{corpus.name}: {corpus.note}. The loss is in nats per character; less is better." if corpus.note else ""
    sections.append(comparison_section("validation/loss", contenders, text=note))
    rows = [row for row in view.rows[view.done[0]] if row["split"] == "validation"]
    windows = {n: nats / math.log(2) for n, nats in counted.items() if n > 1}
    sections.append(bits_section([row["step"] for row in rows], [row["bits"] for row in rows], windows))
    sections.append(samples_section(samples(view, corpus)))
    text, nats = scored(view, corpus)
    sections.append(surprise_section(text, nats))
    sections.append(memory_section(influence(view, corpus)))
    sections += _streams(view, corpus)
    return sections


def samples(view: Any, corpus: Corpus) -> dict[float, str]:
    """Temperature -> a text of the first seed's network."""
    from experiments.sample import SampleRequest
    from experiments.text_samples import Writer

    writer = Writer(view, corpus)
    request = SampleRequest(Path(), lambda text: None, length=SAMPLE)
    return {t: "".join(writer.write(dataclasses.replace(request, temperature=t))) for t in TEMPERATURES}


def scored(view: Any, corpus: Corpus) -> tuple[str, np.ndarray]:
    """The characters of the validation split that were read, in order, and -log p [n] of each."""
    outputs = view.outputs(view.done[0], "validation")
    nats = outputs["nats"][outputs["weight"] > 0]
    return corpus.vocabulary.decode(corpus.splits["validation"][: len(nats)]), nats


def influence(view: Any, corpus: Corpus) -> np.ndarray:
    """Mean norm of the gradient of a character's -log p by the vector of the character read k steps before, [T]."""
    task = view.experiment.phases[-1].task
    net = one_seed(view.state(view.done[0])).nets[NET]
    variables = {"params": net.params, **({"batch_stats": net.stats} if net.stats else {})}
    length = 2 * task.example[0].shape[0] if task.streams else task.example[0].shape[0]
    source = Windows.of(corpus.splits["validation"], WINDOWS, min(length, len(corpus.splits["validation"]) - 1))

    tokens, target = (source.batch(0, jax.random.key(0))[name] for name in ("tokens", "target"))

    def logits(variables, change):
        def read(call, args, kwargs, context):
            found = call(*args, **kwargs)
            embeds = isinstance(context.module, nn.Embed) and context.method_name == "__call__"
            return change(found) if embeds and found.shape[:2] == tokens.shape else found

        with nn.intercept_methods(read):
            outputs = task.model.apply(variables, tokens, train=False)
        return outputs[0] if task.streams else outputs

    shapes: list = []

    def record(found):
        shapes.append(found.shape)
        return found

    jax.eval_shape(lambda variables: logits(variables, record), variables)

    def norms(variables):
        def loss(moved):
            last = logits(variables, lambda found: found + moved.astype(found.dtype))[:, -1]
            return softmax_cross_entropy(last, target[:, -1]).sum()

        gradient = jax.grad(loss)(jnp.zeros(shapes[0]))
        return jnp.linalg.norm(gradient, axis=-1).mean(axis=0)[::-1]

    return np.asarray(compiled(norms)(variables))


def _streams(view: Any, corpus: Corpus) -> list:
    from jaxdl.reports.text import streams_section

    source = view.experiment.phases[-1].source
    if not isinstance(source, Streams):
        return []
    key = jax.random.key(0)
    batches = [np.asarray(source.batch(jnp.int32(step), key)["tokens"][:4]) for step in range(3)]
    return [
        streams_section([[corpus.vocabulary.decode(batch[row]) for batch in batches] for row in range(len(batches[0]))])
    ]
