"""The circuit track of the Mechanistic Interpretability Benchmark (Mueller et al. 2025), on tasks of our own making."""
