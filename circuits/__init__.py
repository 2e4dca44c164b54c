"""What computes it? The heads and MLPs that produce a fact, and how they are wired."""
