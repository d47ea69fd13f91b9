"""Character models of tiny_shakespeare: recurrent networks and small Transformers, nats per character.

Karpathy: nanoGPT, README and config (1.88 for the CPU setting, 1.4697 for the GPU setting); LSTM, GRU and their minimal
forms about 1.55 (Feng et al., arXiv 2410.01201, from memory) (inventory §3, rows "Char RNN" and "Char Transformer").
nanoGPT's split: the first 90 % train, the rest validates; no test split is left, and the published numbers are the lowest
validation losses too. Ours is the loss on the whole validation text, not on random batches of it.
"""

from experiments.tables import Measure, Plan, Row, Table

_RECURRENT = "char_lstm:tiny_shakespeare"
_TEXT = {"data.name": "tiny_shakespeare"}

TABLE = Table(
    title="Character models, tiny_shakespeare",
    source="nanoGPT and arXiv 2410.01201 (inventory §3, rows Char RNN and Char Transformer). Whole validation text.",
    measure=Measure("validation/loss", "validation loss", "nats", digits=3),
    rows=(
        Row(
            "lstm",
            "LSTM 2 x 256",
            published="1.55",
            source="minLSTM, arXiv 2410.01201, from memory",
            recipe=_RECURRENT,
            plans={"cpu": Plan(3), "gpu": Plan(5, {"train.steps": 6000})},
            bar=(None, 1.65),
        ),
        Row(
            "gru",
            "GRU 2 x 256",
            published="1.55",
            source="minGRU, arXiv 2410.01201, from memory",
            recipe=_RECURRENT,
            settings={"model.cell": "gru"},
            plans={"cpu": Plan(3), "gpu": Plan(5, {"train.steps": 6000})},
            bar=(None, 1.68),
        ),
        Row(
            "rnn",
            "tanh RNN 2 x 256",
            recipe=_RECURRENT,
            settings={"model.cell": "rnn"},
            plans={"cpu": Plan(3), "gpu": Plan(5, {"train.steps": 6000})},
        ),
        Row(
            "gpt_cpu",
            "Transformer 4 x 128, context 64",
            published="1.88",
            source="nanoGPT's README, setting for CPU",
            recipe="char_gpt:cpu",
            settings=_TEXT,
            plans={"cpu": Plan(3), "gpu": Plan(5)},
            bar=(None, 1.90),
            note="learning rate 2e-3 where nanoGPT has 1e-3",
        ),
        Row(
            "nanogpt_cpu",
            "the same at nanoGPT's learning rate",
            published="1.88",
            source="nanoGPT's README, setting for CPU",
            recipe="char_gpt:cpu",
            settings={**_TEXT, "optimizer.learning_rate": 1e-3},
            plans={"cpu": Plan(3), "gpu": Plan(5)},
            note="the published figure is of 20 random batches",
        ),
        Row(
            "gpt_gpu",
            "Transformer 6 x 384, context 256",
            published="1.4697",
            source="nanoGPT's README, setting for a GPU",
            recipe="char_gpt:gpu",
            settings=_TEXT,
            plans={
                "cpu": Plan(0, differs="not run: 5000 updates of 16,384 characters through 10.6 M parameters"),
                "gpu": Plan(3, precision="bfloat16"),
            },
            bar=(None, 1.475),
        ),
    ),
    chosen=(
        "Transformers as published, the small one's learning rate of two by validation loss; the LSTM recipe's settings "
        "as they stand, used for GRU and RNN too"
    ),
    budgets={"cpu": "two CPU cores", "gpu": "one GPU: nanoGPT's larger setting, longer recurrent runs"},
)
