"""Random inputs, drawn from grammars by hypothesis: prompts, flags, configurations and every kind of file."""
