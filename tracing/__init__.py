"""Where does it happen? Causal tracing and the logit lens."""
