"""Tic-tac-toe by AlphaZero: games lost against random and perfect play.

No published number: perfect play never loses, and that is the bar (inventory O08, O09, O11). 32 simulations a move; half
of the games from each seat.
"""

from experiments.tables import AS_IT_STANDS, Measure, Plan, Row, Table

TABLE = Table(
    title="Tic-tac-toe",
    source="Perfect play loses no game (inventory O08, O09, O11). Games lost by the agent with 32 simulations a move.",
    measure=Measure("test/losses_perfect", "lost of 100 against perfect play", scale=100.0, digits=1),
    rows=(
        Row(
            "alphazero",
            "AlphaZero",
            published="0",
            source="perfect play",
            recipe="tictactoe_alphazero",
            plans={"cpu": Plan(5), "gpu": Plan(32)},
            bar=(None, 0),
        ),
        Row(
            "random",
            "AlphaZero",
            Measure("test/losses_random", "lost of 512 against random play", scale=512.0, digits=1),
            published="0",
            source="perfect play",
            of="alphazero",
            bar=(None, 0),
        ),
    ),
    chosen=AS_IT_STANDS,
    budgets={"cpu": "two CPU cores", "gpu": "one GPU, 32 seeds in one program"},
)
