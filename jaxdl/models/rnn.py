"""Language models by recurrent networks, and the fixed window that they outgrew."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.dropout import Dropout
from jaxdl.nn.embedding import Embed
from jaxdl.nn.recurrent import RecurrentStack

Array = jax.Array


class RecurrentLM(nn.Module):
    """Embedding, stacked recurrent layers, scores of the next token: p(c_t | c_1 ... c_{t-1}) from a state of fixed size.

    With cell "rnn" and one layer h_t = tanh(W_e e_t + W_h h_{t-1} + b), the recurrent language model (Mikolov et al.
    2010). Dropout acts between layers and before the scores, never on the state (Zaremba et al. 2014).

    Attributes:
      vocabulary: number of tokens V.
      features: units of each layer.
      cell: "rnn", "lstm" or "gru".
      embedding: size of the tokens' vectors.
      dropout: share of the units dropped, unless the call says another.
      peepholes: see `jaxdl.nn.recurrent.Recurrent`.
      learn_initial: likewise.
      dtype: dtype of the computation; None for that of the parameters.
    """

    vocabulary: int
    features: Sequence[int] = (256, 256)
    cell: str = "lstm"
    embedding: int = 64
    dropout: float = 0.0
    peepholes: bool = False
    learn_initial: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        reset: Array | None = None,
        carry: Any = None,
        train: bool = False,
        dropout: Array | float | None = None,
    ) -> tuple[Array, Any]:
        """Reads tokens after what the carry remembers.

        Args:
          tokens: [B, T] int32.
          reset: [B]: rows with 1 start from a fresh carry.
          carry: as returned, or `zero_carry(B)`; None: a fresh one.
          train: whether to drop units.
          dropout: replaces the attribute; may be traced.

        Returns:
          logits [B, T, V] of the token after each, and the carry after the last.
        """
        rate = self.dropout if dropout is None else dropout
        x = Embed(self.vocabulary, self.embedding, dtype=self.dtype)(tokens)
        x, carry = self._stack(name="layers")(x, carry, reset=reset, train=train, dropout=rate)
        x = Dropout(0.0)(x, train, rate)
        return nn.Dense(self.vocabulary, dtype=self.dtype, name="scores")(x), carry

    def zero_carry(self, batch_size: int) -> Any:
        """A carry of zeros for B rows; where the initial state is learnt, `reset` puts that in its place."""
        return self._stack(parent=None).zero_carry(batch_size)

    def _stack(self, **options: Any) -> RecurrentStack:
        return RecurrentStack(
            tuple(self.features),
            cell=self.cell,
            peepholes=self.peepholes,
            learn_initial=self.learn_initial,
            dtype=self.dtype,
            **options,
        )


class WindowLM(nn.Module):
    """The next token from the last k: e = [e_1; ...; e_k], h = tanh(W e + b), scores U h + b' (Bengio et al. 2003).

    Attributes:
      vocabulary: V.
      window: k; before the first token the vectors are zero.
      features: units of the hidden layer.
      embedding: size of the tokens' vectors.
      dropout: share of hidden units dropped, unless the call says another.
      dtype: dtype of the computation.
    """

    vocabulary: int
    window: int = 8
    features: int = 512
    embedding: int = 64
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Array, train: bool = False, dropout: Array | float | None = None) -> Array:
        """tokens [B, T] int32 -> logits [B, T, V] of the token after each."""
        x = Embed(self.vocabulary, self.embedding, dtype=self.dtype)(tokens)
        padded = jnp.pad(x, ((0, 0), (self.window - 1, 0), (0, 0)))
        shifted = [padded[:, k : k + tokens.shape[1]] for k in range(self.window)]
        x = nn.tanh(nn.Dense(self.features, dtype=self.dtype)(jnp.concatenate(shifted, axis=-1)))
        x = Dropout(0.0)(x, train, self.dropout if dropout is None else dropout)
        return nn.Dense(self.vocabulary, dtype=self.dtype, name="scores")(x)
