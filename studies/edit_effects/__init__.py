"""What an edit changed inside: traces, circuits, heads and lens before, after and under control edits."""
