"""Tensor parallelism: which axis of which parameter several devices share."""

from jax.sharding import PartitionSpec as P

from jaxdl.errors import UserError

# Megatron-LM (Shoeybi et al. 2019, section 3): devices share heads and hidden units. Kernels into them are column-parallel,
# those back into the residual stream row-parallel, so that each sublayer needs one all-reduce; biases after it, layer norms
# and positions are whole. Vectors of tokens are shared by vocabulary; one that does not divide stays whole (shared by
# features instead, each layer would gather its input).
# (end of a parameter's path, PartitionSpec), see `jaxdl.engine.devices.Layout`
TRANSFORMER = (
    ("(query_key_value|key_value)/kernel", P(None, None, "model")),
    ("(query_key_value|key_value)/bias", P(None, "model")),
    ("(query|hidden)/kernel", P(None, "model")),
    ("(query|hidden)/bias", P("model")),
    ("output/kernel", P("model", None)),
    ("(source_|target_)?embedding/embedding", P("model", None)),
    ("scores/kernel", P(None, "model")),
)


def transformer_rules(heads: int, parts: int) -> tuple[tuple[str, P], ...]:
    """How `parts` devices share the parameters of a Transformer (`jaxdl.models.transformer`).

    Raises:
      UserError: the heads cannot be shared out evenly.
    """
    if heads % parts:
        raise UserError(f"--model_parallel={parts} does not divide the {heads} heads of each attention")
    return TRANSFORMER
