"""Methods that train weights on the new answers."""
