"""Dates in 26 ways of writing to ISO form: recurrent attention against a small Transformer.

No published number: the data are generated here (inventory H19, H20, K08 name the mechanisms). The bar is an exact match for
99 % of the test dates, within three minutes on two CPU cores.
"""

from experiments.tables import AS_IT_STANDS, Measure, Plan, Row, Table

TABLE = Table(
    title="Dates, sequence to sequence",
    source="Generated data, no published number (inventory H19, H20, K08). Share of the 1,000 test dates that are exactly right.",
    measure=Measure("test/exact_match", "exact match", "%", scale=100.0),
    rows=(
        Row(
            "attention",
            "GRU encoder-decoder with attention",
            recipe="dates_attention",
            plans={"cpu": Plan(5), "gpu": Plan(10)},
            bar=(99.0, None),
        ),
        Row(
            "transformer",
            "Transformer, 2 + 2 layers",
            recipe="dates_transformer",
            plans={"cpu": Plan(5), "gpu": Plan(10)},
            bar=(99.0, None),
        ),
    ),
    chosen=AS_IT_STANDS,
    budgets={"cpu": "two CPU cores", "gpu": "one GPU, more seeds"},
)
