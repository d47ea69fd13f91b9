"""Spoken digits, single and connected: the Free Spoken Digit Dataset, official split (takes 0-4 of each are the test).

Single digits: public networks on other versions or splits of the set, so no number is quite comparable (inventory §3, row
"Spoken digits"). Strings of 3 to 7 digits made of the test recordings, transcribed by CTC: no public reference (row "CTC
connected digits").
"""

from experiments.tables import AS_IT_STANDS, Measure, Plan, Row, Table

_RATE = Measure("test/digit_error_rate", "digit error rate, greedy", "%", scale=100.0)

TABLE = Table(
    title="Spoken digits",
    source="Free Spoken Digit Dataset, official split (inventory I05, I08, §3 rows Spoken digits and CTC connected digits).",
    measure=Measure("test/accuracy", "test accuracy", "%", scale=100.0),
    rows=(
        Row(
            "single",
            "single digits, small CNN on log-mel",
            published="97",
            source="a CNN on MFCC, version of 1500 recordings",
            recipe="spoken_digit:fsdd",
            plans={"cpu": Plan(5), "gpu": Plan(10)},
            bar=(98.0, None),
            note="the published number is of another version of the set",
        ),
        Row(
            "connected",
            "strings of 3 to 7 digits, CTC",
            _RATE,
            recipe="connected_digits:fsdd",
            plans={"cpu": Plan(3), "gpu": Plan(10)},
            bar=(None, 3.0),
        ),
        Row(
            "connected_beam",
            "the same",
            Measure("test/beam_digit_error_rate", "digit error rate, prefix beam search", "%", scale=100.0),
            of="connected",
        ),
    ),
    chosen=AS_IT_STANDS,
    budgets={"cpu": "two CPU cores", "gpu": "one GPU, more seeds"},
)
