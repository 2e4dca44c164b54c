"""Edit after edit, and when the model begins to break."""
