"""Methods that change no weight: a text before every question."""
