"""What --input may name: a file, or the thing itself; a slip of the pen is said, not read."""

import pytest

from experiments.games import reader
from experiments.inputs import file_text, named_file
from jaxdl.errors import UserError
from jaxdl.rl.tictactoe import TicTacToe


def test_files_are_read_and_the_rest_is_the_thing_itself(tmp_path):
    place = tmp_path / "dates.txt"
    place.write_text("3 March 2021")
    assert file_text(named_file(str(place))) == "3 March 2021"
    assert named_file("3 March 2021") is None
    assert named_file("7" * 5000) is None  # longer than a name may be


def test_folders_and_files_that_are_not_there_are_said(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        named_file(str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        named_file("missing.txt")
    (tmp_path / "bin.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no text file"):
        file_text(tmp_path / "bin.txt")


@pytest.mark.parametrize("text", ["X.O/.X./..O", "X.O\n.X.\n..O\n", "1, 3, 5, 9\n"])
def test_a_board_may_lie_in_a_file(text, tmp_path):
    place = tmp_path / "board"
    place.write_text(text)
    moves = reader(TicTacToe())(str(place))["moves"]
    assert sorted(moves[moves >= 0]) == [0, 2, 4, 8]
