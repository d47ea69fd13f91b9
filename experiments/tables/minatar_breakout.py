"""MinAtar Breakout by PPO: mean return of 100 greedy episodes.

Young, Tian 2019 give plots only: DQN reaches about 10 after 5 M frames, read off the figure (inventory §3, row "MinAtar").
gymnax's version differs: no sticky actions, no ramp of difficulty, at most 1000 steps. Needs the extra [rl].
"""

from experiments.tables import AS_IT_STANDS, Measure, Plan, Row, Table

_SOURCE = "Young, Tian 2019, DQN after 5 M frames, read off a figure"

TABLE = Table(
    title="MinAtar Breakout",
    source="Young, Tian 2019 (inventory O04, §3 row MinAtar); gymnax's version. Mean return of 100 greedy episodes.",
    measure=Measure("test/return", "return"),
    rows=(
        Row(
            "steps1m",
            "PPO, 1 M steps",
            published="10",
            source=_SOURCE,
            recipe="minatar_ppo:breakout",
            settings={"train.steps": 122},
            plans={"cpu": Plan(3), "gpu": Plan(32)},
            bar=(15, None),
            note="sticky actions and difficulty ramping are missing here, so the task is easier than the published one",
        ),
        Row(
            "steps2m",
            "PPO, 2 M steps",
            published="10",
            source=_SOURCE,
            recipe="minatar_ppo:breakout",
            plans={"cpu": Plan(3), "gpu": Plan(32)},
            bar=(20, None),
        ),
    ),
    chosen=AS_IT_STANDS,
    budgets={"cpu": "two CPU cores", "gpu": "one GPU, 32 seeds in one program"},
)
