"""CartPole-v1: PPO and DQN, mean return of 100 greedy episodes (500 is the most).

CleanRL's tables after 500,000 environment steps: ppo 490.04, dqn_jax 498.38 ± 2.29 (inventory §3, row "CartPole"). They
report returns of training episodes, we those of greedy ones.
"""

from experiments.tables import AS_IT_STANDS, Measure, Plan, Row, Table

TABLE = Table(
    title="CartPole",
    source="CleanRL's documentation (inventory O02, §3 row CartPole). Mean return of 100 greedy episodes; 500 is the most.",
    measure=Measure("test/return", "return"),
    rows=(
        Row(
            "ppo",
            "PPO, 245,760 steps",
            published="490.04",
            source="CleanRL ppo, 500,000 steps",
            recipe="cartpole_ppo",
            plans={"cpu": Plan(5), "gpu": Plan(32)},
            bar=(495, None),
        ),
        Row(
            "dqn",
            "DQN, 240,000 steps",
            published="498.38 ± 2.29",
            source="CleanRL dqn_jax, 500,000 steps",
            recipe="cartpole_dqn",
            plans={"cpu": Plan(5), "gpu": Plan(32)},
            bar=(475, None),
        ),
    ),
    chosen=AS_IT_STANDS,
    budgets={"cpu": "two CPU cores", "gpu": "one GPU, 32 seeds in one program"},
)
