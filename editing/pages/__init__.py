"""The pages of edits."""
