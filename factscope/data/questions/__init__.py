"""What else is asked of an edit: its prompt in other frames and in hard wordings, and what follows from it."""
