"""Methods whose edits come from an editor that was trained before, on other facts."""
