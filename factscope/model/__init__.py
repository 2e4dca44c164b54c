"""The running model: where it comes from, how text reaches it, and where it can be read and changed."""
