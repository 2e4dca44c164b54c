"""What a state knows: read by a lens, by another prompt, or by a linear map of the relation."""
