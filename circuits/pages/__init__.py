"""The pages of circuits."""
