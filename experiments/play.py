"""You against a trained agent, in the terminal: `python -m experiments.play --workdir=runs/tictactoe_alphazero`."""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments import cli
from experiments.flags import option
from jaxdl.errors import UserError


@dataclass(frozen=True)
class PlayOptions:
    """Flags of this binary."""

    seat: str = option("x", "your side: x moves first, o second", choices=("x", "o"))
    simulations: int = option(0, "simulations of the agent's search; 0: as in training", minimum=0, maximum=10_000)


BINARY = cli.Binary(
    program="play",
    summary=(
        "Plays a board game against the agent of a run folder. Moves are read from standard input, one a line, so that "
        "they can be typed or piped in; q or the end of the input leaves."
    ),
    flags=("workdir",),
    options=PlayOptions,
    smaller="--simulations",
)
MARKS = "XO"


def main(arguments: cli.Arguments) -> int:
    """Plays one game; leaving it is no error."""
    flags = arguments.flags
    agent = open_agent(flags.workdir, flags.simulations)
    match = Match(agent, MARKS.index(flags.seat.upper()))
    match.play(sys.stdin.readline, echo=not sys.stdin.isatty())
    return 0


@dataclass(frozen=True)
class Agent:
    """A trained agent that can be asked about positions.

    Attributes:
      title: its recipe.
      game: the rules.
      simulations: of one search.
      look: actions so far -> what rules, network and search say of the position; see `AlphaZero.predict`.
    """

    title: str
    game: Any
    simulations: int
    look: Callable[[list[int]], dict[str, Any]]


def open_agent(workdir: str, simulations: int = 0) -> Agent:
    """The agent of a run folder (over seeds: of its first one).

    Raises:
      UserError: there is no run of a game in `workdir`.
    """
    from experiments.session import judged_folders, open_run
    from jaxdl.engine.compiled import predictor
    from jaxdl.engine.fit import load_judged
    from jaxdl.engine.folder import RunFolder

    session = open_run(workdir)
    task = session.experiment.phases[-1].task
    if not hasattr(task, "game"):
        raise UserError(
            f"{workdir} holds a run of {session.recipe.title}, which plays no game: train one with "
            "python -m experiments.train --recipe=tictactoe_alphazero"
        )
    if simulations:
        task = dataclasses.replace(task, search=dataclasses.replace(task.search, simulations=simulations))
    state = load_judged(session.experiment, RunFolder(judged_folders(workdir)[0][1]))
    asked = predictor(task, state)

    def look(moves: list[int]) -> dict[str, Any]:
        import numpy as np

        padded = np.full((1, task.game.max_plies), -1, np.int32)
        padded[0, : len(moves)] = moves
        return {name: values[0] for name, values in asked({"moves": padded}).items()}

    return Agent(session.recipe.title, task.game, task.search.simulations, look)


@dataclass
class Match:
    """One game between a person and an agent.

    Attributes:
      agent: the other side.
      seat: the person's, 0 or 1.
    """

    agent: Agent
    seat: int

    def play(self, readline: Callable[[], str], echo: bool = False, say: Callable[[str], None] = print) -> None:
        """Plays to the end, or until the person leaves.

        Args:
          readline: the next line with its end, "" after the last one.
          echo: whether to repeat what was read, for input that no terminal shows.
          say: takes what is printed, without the line's end.
        """
        names = self.agent.game.action_names
        say(
            f"{self.agent.title}, {self.agent.simulations} simulations a move. You are {MARKS[self.seat]}, "
            f"{'moving first' if self.seat == 0 else 'moving second'}. Type a move ({example(names)}) or q to leave."
        )
        say("In brackets: the result that the agent expects, +1 if it wins, -1 if you do, and the moves it thought of.")
        moves: list[int] = []
        seen = self.agent.look(moves)
        while not seen["terminated"]:
            if int(seen["player"]) == self.seat:
                self._show(seen, say)
                action = self._ask(seen, readline, echo, say)
                if action is None:
                    return
            else:
                action = int(seen["action"])
                say(f"the agent plays {names[action]}  ({self._evaluation(seen)})")
            moves.append(action)
            seen = self.agent.look(moves)
        self._show(seen, say)
        result = float(seen["reward"][self.seat])
        say("you win" if result > 0 else "the agent wins" if result < 0 else "a draw")

    def _ask(self, seen: dict, readline: Callable, echo: bool, say: Callable[[str], None]) -> int | None:
        """The person's next move; None if he leaves."""
        names = self.agent.game.action_names
        legal = [name for action, name in enumerate(names) if seen["legal"][action]]
        while True:
            print("your move: ", end="", flush=True)
            line = readline()
            word = line.strip().lower()
            if echo or not line:
                say(word)
            if not line or word in ("q", "quit", "exit"):
                say("goodbye")
                return None
            if word in legal:
                return names.index(word)
            wrong = f"{word} is not free" if word in names else f"{word[:20]!r} is no move"
            say(f"{wrong}: type one of {' '.join(legal)}, or q to leave")

    def _show(self, seen: dict, say: Callable[[str], None]) -> None:
        from jaxdl.rl.game import draw_board, stones

        names = self.agent.game.action_names
        owners = stones(seen["observation"], int(seen["player"]))
        one_each = len(names) == owners.size and not seen["terminated"]
        columns = " ".join(names) + "\n" if len(names) == owners.shape[1] else ""
        say("\n" + columns + draw_board(owners, dict(enumerate(names)) if one_each else None, MARKS) + "\n")

    def _evaluation(self, seen: dict) -> str:
        """What the agent thinks of its position: the value of its search, and its first choices."""
        from jaxdl.reports.games import signed

        names, policy = self.agent.game.action_names, seen["policy"]
        order = sorted((a for a in range(len(names)) if seen["legal"][a]), key=lambda a: -policy[a])[:3]
        choices = ", ".join(f"{names[a]}: {100 * policy[a]:.0f} %" for a in order if policy[a] >= 0.005)
        value = signed(float(seen["value"]))
        return f"expects {value}; {choices}"


def example(names: tuple[str, ...]) -> str:
    """The first and the last action: "1 ... 9"."""
    return f"{names[0]} ... {names[-1]}"


if __name__ == "__main__":
    cli.run(main, BINARY)
