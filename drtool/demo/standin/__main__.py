"""``python3 DIRECTORY COMMAND ARGUMENTS``: import this directory as a package, whatever it is called."""

import importlib
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path[0] = str(_HERE.parent)  # Python put this directory itself there, and its modules are not top-level ones
    program = importlib.import_module(f"{_HERE.name}.program")
    sys.exit(program.main(_HERE.parents[3], sys.argv[1:]))
