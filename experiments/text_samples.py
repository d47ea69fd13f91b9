"""Writing texts with a trained language model: state and logits after a prompt, then character after character."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.text import Corpus
from jaxdl.engine.compiled import compiled, one_seed
from jaxdl.nn.sampling import generate

# characters made by one call of the program, so that text appears while it is written
PIECE = 64
# characters of a text where the request does not say
LENGTH = 500


def sample(view: Any, request: Any, corpus: Corpus) -> None:
    """Writes `request.count` texts to `request.folder`/<number>.txt and shows them as they come."""
    corpus.vocabulary.encode(request.prompt, "--prompt")  # says what is wrong before anything is shown
    writer = Writer(view, corpus)
    for number in range(request.count):
        if request.count > 1:
            request.emit(f"--- {number + 1} of {request.count}\n")
        text = request.prompt
        request.emit(text)
        for piece in writer.write(request, number):
            request.emit(piece)
            text += piece
        request.emit("\n")
        (request.folder / f"{number:03d}.txt").write_text(text, encoding="utf-8")


class Writer:
    """A trained model that goes on with a prompt.

    A model may offer `prefill(tokens [B, P]) -> (logits [B, V], cache)` and `decode(token [B], cache) -> (logits, cache)`
    as methods (a cache of keys and values); one with a carry needs nothing; any other reads its last
    `config.data.length` characters anew for each new one.
    """

    def __init__(self, view: Any, corpus: Corpus, seed_index: int | None = None):
        index = view.first if seed_index is None else seed_index
        task = view.experiment.phases[-1].task
        state = task.for_evaluation(one_seed(view.state(index)))
        net = next(iter(state.nets.values()))
        self.variables = {"params": net.params, **({"batch_stats": net.stats} if net.stats else {})}
        self.corpus = corpus
        self.start, decode = _steps(task.model, task.example[0].shape[0])

        def piece(variables, logits, carry, keys, start, choice, length):
            return generate(
                lambda token, carry: decode(variables, token, carry), logits, carry, keys, start, length, **choice
            )

        self._begin = compiled(self.start)
        self._piece = compiled(piece, static=("length",))

    def write(self, request: Any, number: int = 0) -> Iterator[str]:
        """The text after the prompt, piece by piece; the same request gives the same text.

        Raises:
          UserError: the prompt has a character that the model does not know.
        """
        vocabulary = self.corpus.vocabulary
        prompt = vocabulary.encode(request.prompt, "--prompt").astype(np.int32)
        tokens = np.concatenate([[self.corpus.start], prompt]).astype(np.int32)
        logits, carry = self._begin(self.variables, jnp.asarray(tokens)[None])
        keys = jax.random.fold_in(jax.random.key(request.seed), number)[None]
        choice = {name: jnp.float32(getattr(request, name)) for name in ("temperature", "top_p")}
        choice["top_k"] = jnp.int32(request.top_k)
        length = request.length or LENGTH
        for start in range(0, length, PIECE):
            made, logits, carry = self._piece(self.variables, logits, carry, keys, start, choice, length=PIECE)
            yield vocabulary.decode(np.asarray(made[0])[: length - start])


def _steps(model: Any, length: int) -> tuple[Callable, Callable]:
    """(variables, tokens [B, P]) -> (logits [B, V], carry) and (variables, token [B], carry) -> the same."""
    if hasattr(model, "zero_carry"):

        def read(variables, tokens, carry=None):
            logits, carry = model.apply(variables, tokens, carry=carry, train=False)
            return logits[:, -1], carry

        return read, lambda variables, token, carry: read(variables, token[:, None], carry)
    if hasattr(model, "prefill"):
        return (
            lambda variables, tokens: model.apply(variables, tokens, method="prefill"),
            lambda variables, token, cache: model.apply(variables, token, cache, method="decode"),
        )

    def last(variables, window, count):
        logits = model.apply(variables, window, train=False)
        return jnp.take_along_axis(logits, (count - 1).reshape(1, 1, 1), axis=1)[:, 0]

    def begin(variables, tokens):
        kept = tokens[:, -length:]
        count = jnp.int32(kept.shape[1])
        window = jnp.pad(kept, ((0, 0), (0, length - kept.shape[1])))
        return last(variables, window, count), (window, count)

    def go_on(variables, token, carry):
        window, count = carry
        window = jnp.where(count == length, jnp.roll(window, -1, axis=1), window)
        count = jnp.minimum(count + 1, length)
        window = window.at[:, count - 1].set(token)
        return last(variables, window, count), (window, count)

    return begin, go_on
