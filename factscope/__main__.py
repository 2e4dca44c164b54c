"""`python -m factscope`: the command, where its script is not on the path."""

import importlib

if __name__ == "__main__":
    importlib.import_module("studies.commands.main").main()
