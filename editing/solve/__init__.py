"""What to write and how: values found by descent, one closed form, layer after layer, second moments."""
