"""The folder of the tests' own modules."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
