"""What an edit does to a weight: where its change lies, how sparse it is, and what it says in words."""
