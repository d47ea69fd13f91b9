"""What a finished run says of itself."""

import pytest

from experiments.reporting import wall_time


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([(44.5, 8.0)] * 4, 44.5),  # seeds of one program
        ([(10.0, 8.0), (3.0, 0.0), (3.5, 0.0)], 16.5),  # one after another
        ([(10.0, 8.0), (10.0, 8.0), (3.0, 1.0)], 13.0),  # one more seed later
    ],
)
def test_seeds_of_one_program_took_its_time_once(times, expected):
    records = [{"wall_time_s": wall, "compile_time_s": compilation} for wall, compilation in times]
    assert wall_time(records) == expected
