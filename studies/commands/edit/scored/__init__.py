"""Methods scored on many cases, saved edits scored again, and two tables side by side."""
