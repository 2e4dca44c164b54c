"""The ground floor: facts, prompts, models, hooks, metrics and storage, known to every package and knowing none."""
