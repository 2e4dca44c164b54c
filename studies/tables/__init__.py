"""Tables of papers, each over many facts, taken up where they were stopped."""
