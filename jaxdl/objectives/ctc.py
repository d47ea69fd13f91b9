"""Connectionist temporal classification (Graves, Fernández, Gomez and Schmidhuber, ICML 2006).

The network has one output for each of L labels and a last one for the blank: of C = L + 1 outputs, number C - 1 is the
blank, so that label k is output k. A path π of one output per frame has the probability Π_t p_t(π_t). The map M merges
repeats first and drops blanks after that, M(a a - a b b) = M(a - a b -) = a a b, and a labelling y has the probability
of all its paths, P(y | x) = Σ_{π in M⁻¹(y)} P(π | x).

Shapes: `B` batch, `T` frames, `C` outputs, `L` longest labelling, `S = 2L + 1` states, `W` beams.
"""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# log 0; finite, because the gradient of logaddexp(-inf, -inf) is NaN
_NEVER = -1e30


def ctc_loss(logits: Array, frames: Array, labels: Array, counts: Array) -> Array:
    """-log P(labels | x) by the forward algorithm in log space.

    Over the states - y_1 - y_2 - ... y_L -, with y'_s the output of state s,

        α_1(s) = p_1(y'_s) for the first two states,
        α_t(s) = p_t(y'_s) (α_{t-1}(s) + α_{t-1}(s-1) + [y'_s is no blank and y'_s ≠ y'_{s-2}] α_{t-1}(s-2)),

    and P = α_T(2L) + α_T(2L+1). Differentiable to any order, by logits only.

    Args:
      logits: [B, T, C], the blank last.
      frames: [B] int32, how many frames of each example are no padding, 0 ... T.
      labels: [B, L] int32 in 0 ... C - 2; what lies behind `counts` is ignored.
      counts: [B] int32, labels of each example, 0 ... L.

    Returns:
      float32 [B] in nats: +inf with a zero gradient where no path has that labelling (fewer frames than labels plus
      repeats); NaN where a label or a count is out of range, so that it is noticed.
    """
    outputs, longest = logits.shape[-1], labels.shape[1]
    blank = outputs - 1
    used = jnp.arange(longest) < counts[:, None]
    wrong = jnp.any(used & ((labels < 0) | (labels >= blank)), axis=1) | (counts < 0) | (counts > longest)
    states = jnp.full((labels.shape[0], 2 * longest + 1), blank).at[:, 1::2].set(jnp.where(used, labels, blank))
    log_p = jnp.maximum(jax.nn.log_softmax(logits.astype(jnp.float32)), _NEVER)
    # a product with ones and zeros picks exactly, and its gradient is no scatter
    chosen = (states[:, :, None] == jnp.arange(outputs)).astype(jnp.float32)
    emitted = jnp.einsum("btc,bsc->tbs", log_p, chosen, precision="highest")
    before = jnp.pad(states, ((0, 0), (2, 0)), constant_values=blank)[:, :-2]
    skips = jnp.where((states != blank) & (states != before), 0.0, _NEVER)

    def shifted(alpha: Array, by: int) -> Array:
        return jnp.pad(alpha, ((0, 0), (by, 0)), constant_values=_NEVER)[:, : alpha.shape[1]]

    def advance(alpha: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        emission, t = inputs
        come = jnp.logaddexp(jnp.logaddexp(alpha, shifted(alpha, 1)), shifted(alpha, 2) + skips)
        return jnp.where((t < frames)[:, None], come + emission, alpha), None

    # before the first frame all mass stands in front of the first state, from where state 0 and 1 can be reached
    start = jnp.full(states.shape, _NEVER).at[:, 0].set(0.0)
    first = jnp.where(jnp.arange(states.shape[1]) < 2, emitted[0], _NEVER)
    alpha = jnp.where((frames > 0)[:, None], first, start)
    alpha, _ = lax.scan(advance, alpha, (emitted[1:], jnp.arange(1, logits.shape[1])))
    last = jnp.take_along_axis(alpha, jnp.clip(2 * counts, 0, 2 * longest)[:, None], axis=1)[:, 0]
    label = jnp.take_along_axis(alpha, jnp.clip(2 * counts - 1, 0, 2 * longest)[:, None], axis=1)[:, 0]
    total = jnp.where(counts > 0, jnp.logaddexp(last, label), last)
    possible = total > 0.5 * _NEVER
    loss = jnp.where(possible, -jnp.where(possible, total, 0.0), jnp.inf)
    return jnp.where(wrong, jnp.nan, loss)


def collapse(path: Array, blank: int) -> Array:
    """Which frames of a path begin a label under M: repeats are merged, then blanks dropped.

    Args:
      path: int [..., T].
      blank: the output that is the blank.

    Returns:
      bool [..., T]; the kept frames' outputs, in their order, are M(path).
    """
    before = jnp.concatenate([jnp.full_like(path[..., :1], blank), path[..., :-1]], axis=-1)
    return (path != blank) & (path != before)


def best_path(logits: Array, frames: Array) -> tuple[Array, Array]:
    """Greedy decoding: M of the most probable path.

    Args:
      logits: [B, T, C] (or log-probabilities), the blank last.
      frames: [B].

    Returns:
      path: int32 [B, T], the most probable output of each frame, the blank in padding.
      kept: bool [B, T], the frames whose outputs make the labelling; see `collapse`.
    """
    blank = logits.shape[-1] - 1
    inside = jnp.arange(logits.shape[1]) < frames[:, None]
    path = jnp.where(inside, jnp.argmax(logits, axis=-1), blank).astype(jnp.int32)
    return path, collapse(path, blank)


def prefix_beam_search(logits: Array, frames: Array, width: int, longest: int) -> tuple[Array, Array, Array]:
    """The most probable labellings, summed over paths, by a search over prefixes; in XLA, all examples at once.

    Each of W prefixes carries the probability of its paths that end in a blank and of those that end in its last
    label. A frame lets a prefix stay as it is or grow by one label; growth into a prefix that is carried already is
    added to it. A repeated label grows a prefix only from the paths that end in a blank. Graves and Jaitly 2014;
    Hannun et al. 2014, arXiv:1408.2873, without a language model. Exact when W covers all prefixes.

    Args:
      logits: [B, T, C], the blank last.
      frames: [B].
      width: W.
      longest: L, labels of the longest prefix that is considered.

    Returns:
      labels: int32 [B, W, L], the most probable first, -1 behind their ends.
      counts: int32 [B, W].
      scores: float32 [B, W], log P of each (of its paths that the search kept); about -1e30 for unused beams.
    """
    log_p = jnp.maximum(jax.nn.log_softmax(logits.astype(jnp.float32)), _NEVER)

    def search(log_p: Array, frames: Array) -> tuple[Array, Array, Array]:
        never = jnp.full((width,), _NEVER)
        prefixes = jnp.full((width, longest), -1, jnp.int32)
        beams = (prefixes, jnp.zeros((width,), jnp.int32), never.at[0].set(0.0), never)

        def frame(beams, inputs):
            now, t = inputs
            grown = _grow(beams, now)
            return jax.tree.map(lambda new, old: jnp.where(t < frames, new, old), grown, beams), None

        (prefixes, counts, blank, label), _ = lax.scan(frame, beams, (log_p, jnp.arange(log_p.shape[0])))
        scores = jnp.logaddexp(blank, label)
        order = jnp.argsort(-scores, stable=True)
        return prefixes[order], counts[order], scores[order]

    return jax.vmap(search)(log_p, frames)


def _grow(beams: tuple[Array, Array, Array, Array], log_p: Array) -> tuple[Array, Array, Array, Array]:
    """The beams after one frame; log_p [C]. Beams: prefixes [W, L], their counts [W], log P that end in blank, in label."""
    prefixes, counts, blank, label = beams
    width, longest = prefixes.shape
    symbols = jnp.arange(log_p.shape[0] - 1)
    both = jnp.logaddexp(blank, label)
    last = jnp.where(counts > 0, jnp.take_along_axis(prefixes, jnp.maximum(counts - 1, 0)[:, None], axis=1)[:, 0], -1)
    stay_blank = both + log_p[-1]
    stay_label = jnp.where(counts > 0, label + log_p[jnp.maximum(last, 0)], _NEVER)
    # [W, C - 1]: each prefix grown by each label
    from_paths = jnp.where(last[:, None] == symbols, blank[:, None], both[:, None])
    grown = jnp.where((counts < longest)[:, None], from_paths + log_p[:-1], _NEVER)
    # child[i, j]: prefix j is prefix i and one label more
    position = jnp.arange(longest)
    parents = jnp.where(position == (counts - 1)[:, None], -1, prefixes)
    child = (prefixes[:, None, :] == parents[None, :, :]).all(axis=-1) & (counts[None, :] == counts[:, None] + 1)
    child &= (both > 0.5 * _NEVER)[None, :]
    merged = jnp.where(child, grown[:, jnp.maximum(last, 0)], _NEVER)
    stay_label = jnp.logaddexp(stay_label, jnp.max(merged, axis=0, initial=_NEVER))
    taken = (child[:, :, None] & (last[None, :, None] == symbols)).any(axis=1)
    grown = jnp.where(taken, _NEVER, grown)
    scores = jnp.concatenate([jnp.logaddexp(stay_blank, stay_label), grown.reshape(-1)])
    best = lax.top_k(scores, width)[1]
    stays = best < width
    source = jnp.where(stays, best, (best - width) // len(symbols))
    symbol = jnp.where(stays, -1, (best - width) % len(symbols))
    added = position == counts[source][:, None]
    chosen = jnp.where(~stays[:, None] & added, symbol[:, None], prefixes[source]).astype(jnp.int32)
    return (
        chosen,
        counts[source] + jnp.where(stays, 0, 1).astype(jnp.int32),
        jnp.where(stays, stay_blank[source], _NEVER),
        jnp.where(stays, stay_label[source], scores[best]),
    )
