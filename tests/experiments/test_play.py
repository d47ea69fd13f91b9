"""The play binary: transcripts against a perfect agent, wrong input, and the way from a run folder to a game."""

import json

import numpy as np
import pytest

from experiments import cli, play, predict
from experiments.games import describe_position, parse_position, reader
from jaxdl.errors import UserError
from jaxdl.rl.tictactoe import LINES, TicTacToe, code_of, perfect_play

GAME = TicTacToe()


def look(moves):
    """What a perfect agent says of a position, without any network."""
    board = np.zeros(9, int)
    for ply, cell in enumerate(moves):
        assert board[cell] == 0
        board[cell] = ply % 2 + 1
    player = len(moves) % 2
    winners = [mark for mark in (1, 2) if any((board[line] == mark).all() for line in LINES)]
    ended = bool(winners) or len(moves) == 9
    optimal = perfect_play().optimal[code_of(moves)]
    return {
        "player": player,
        "terminated": ended,
        "reward": np.array({(): (0, 0), (1,): (1, -1), (2,): (-1, 1)}[tuple(winners)], float),
        "legal": (board == 0) & (not ended),
        "policy": optimal / max(optimal.sum(), 1),
        "action": int(optimal.argmax()),
        "value": float(perfect_play().value[code_of(moves)]),
        "observation": np.stack([board == player + 1, board == 2 - player], axis=-1).reshape(3, 3, 2),
    }


def transcript(typed, seat=0):
    """All that a game prints."""
    lines, said = iter(typed), []
    agent = play.Agent("tictactoe_alphazero", GAME, 32, look)
    play.Match(agent, seat).play(lambda: next(lines, ""), echo=True, say=said.append)
    return said


def test_a_game_until_the_input_ends():
    said = transcript(["1\n", "2\n", "7\n"])
    assert said[0].startswith("tictactoe_alphazero, 32 simulations a move. You are X, moving first.")
    assert "\n1 2 3\n4 5 6\n7 8 9\n" in said
    moves = [line for line in said if line.startswith("the agent plays")]
    assert moves == [f"the agent plays {cell}  (expects +0.00; {cell}: 100 %)" for cell in "534"]
    assert said[-2:] == ["", "goodbye"] and "X X O\nO O 6\nX 8 9" in said[-3]


@pytest.mark.parametrize(
    ("typed", "board", "result"),
    [("2498", "O X O\nX O ·\nO X X", "the agent wins"), ("53489", "O O X\nX X O\nO X X", "a draw")],
)
def test_a_game_to_its_end(typed, board, result):
    said = transcript([f"{cell}\n" for cell in typed])
    assert said[-1] == result and said[-2].strip() == board


def test_a_person_can_win():
    poor = play.Agent("poor", GAME, 1, lambda moves: {**look(moves), "action": int(look(moves)["legal"].argmax())})
    said, lines = [], iter(["3\n", "5\n", "7\n"])
    play.Match(poor, 0).play(lambda: next(lines, ""), say=said.append)
    assert said[-1] == "you win"


def test_the_second_seat_sees_the_agent_begin():
    said = transcript(["q\n"], seat=1)
    assert "You are O, moving second" in said[0]
    first = next(line for line in said if line.startswith("the agent plays"))
    assert first == "the agent plays 1  (expects +0.00; 1: 11 %, 2: 11 %, 3: 11 %)" and said[-1] == "goodbye"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("10\n", "'10' is no move: type one of 1 2 3 4 5 6 7 8 9, or q to leave"),
        ("five\n", "'five' is no move: type one of 1 2 3 4 5 6 7 8 9, or q to leave"),
        ("\n", "'' is no move: type one of 1 2 3 4 5 6 7 8 9, or q to leave"),
    ],
)
def test_a_wrong_move_gets_one_line_and_another_try(typed, line):
    said = transcript([typed, " 5 \n", "q\n"])
    assert line in said and any(text.startswith("the agent plays") for text in said)


def test_a_taken_cell_gets_one_line():
    said = transcript(["5\n", "5\n"])
    assert any(text.startswith("5 is not free: type one of") for text in said)


@pytest.mark.parametrize("typed", [["q\n"], ["QUIT\n"], [], ["5\n"]])
def test_leaving_and_the_end_of_the_input_are_no_errors(typed):
    assert transcript(typed)[-1] == "goodbye"


def test_positions_of_predict():
    assert reader(GAME)("X../.O./...")["moves"].tolist() == [0, 4, -1, -1, -1, -1, -1, -1, -1]
    assert parse_position(GAME, "5, 1,9") == [4, 0, 8] and parse_position(GAME, "") == []
    for text, wrong in (("5,5", "no legal move"), ("X.", "nine cells"), ("1,2,4,5,7", "over"), ("1,x", "nine cells")):
        with pytest.raises(UserError, match=wrong):
            parse_position(GAME, text)


def test_what_predict_shows():
    found = describe_position(GAME)({**look([0, 3, 1, 4]), "choice": np.eye(9)[2]})
    assert found["label"] == "3" and found["confidence"] == 1.0 and found["value"] == 1.0 and found["player"] == "X"
    with pytest.raises(UserError, match="over"):
        describe_position(GAME)({**look([0, 3, 1, 4, 2]), "choice": np.eye(9)[0]})


def command(module, *flags):
    """Runs a binary in this process."""
    return cli.execute(module.main, module.BINARY, ["program", *flags])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder of an agent that has learnt nothing."""
    from jaxdl import fit

    path = tmp_path_factory.mktemp("runs") / "nothing"
    fit("tictactoe_alphazero", str(path), **{"train.steps": 0, "match.random": 8, "match.strong": 8})
    return path


def test_from_a_run_folder_to_a_game(folder, capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("5\nnonsense\n1\n"))
    assert command(play, f"--workdir={folder}", "--seat=x", "--simulations=8") == 0
    said = capsys.readouterr().out
    assert "8 simulations a move" in said and said.count("the agent plays") >= 1
    assert "'nonsense' is no move" in said and said.rstrip().endswith("goodbye")


def test_predict_says_the_best_move(folder, capsys):
    assert command(predict, f"--workdir={folder}", "--format=json", "XX./OO./...", "--input=OO./XX./X..") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    found = {row["input"]: row for row in (first, second)}
    assert found["XX./OO./..."]["label"] == "3" and found["XX./OO./..."]["value"] == 1.0
    assert found["OO./XX./X.."]["label"] == "3" and found["OO./XX./X.."]["player"] == "O"
    assert command(predict, f"--workdir={folder}", "--input=XXX/OO./...") == 1
    error = capsys.readouterr().err.strip()
    assert "the game is over" in error and "\n" not in error


def test_other_folders_get_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "perceptron_nand", "seed": 0}))
    for flags, said in (
        (["--workdir=nowhere"], "no run folder"),
        ([f"--workdir={tmp_path}"], "plays no game"),
        (["--seat=z"], "one of: x, o"),
    ):
        assert command(play, *flags) in (1, 2)
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error
