"""GPT-2 in its four sizes; Radford et al.: Language models are unsupervised multitask learners, 2019, table 2."""

from jaxdl.models.transformer import Shape, TransformerLM

VOCABULARY, CONTEXT = 50257, 1024
# name -> layers, heads, features; called by their numbers of parameters, scores tied to the tokens' vectors
SIZES = {"124M": (12, 12, 768), "355M": (24, 16, 1024), "774M": (36, 20, 1280), "1558M": (48, 25, 1600)}


def gpt2(size: str = "124M", dropout: float = 0.0, fused: bool = False, vocabulary: int = VOCABULARY) -> TransformerLM:
    """GPT-2: normalised before each sublayer, learned positions, biases, tied scores.

    The GELU is the exact one, where the original has its approximation by a tanh. Parameters: 124,439,808, 354,823,168,
    774,030,080 and 1,557,611,200.

    Args:
      size: one of SIZES.
      dropout: see `Shape`.
      fused: see `Shape`.
      vocabulary: V; nanoGPT takes 50,304, the next multiple of 64, whose matrices accelerators multiply faster.

    Raises:
      ValueError: there is no such size.
    """
    if size not in SIZES:
        raise ValueError(f"GPT-2 has the sizes {', '.join(SIZES)}, got {size!r}")
    layers, heads, features = SIZES[size]
    shape = Shape(features, heads, dropout=dropout, fused=fused)
    return TransformerLM(vocabulary, CONTEXT, shape, layers)
