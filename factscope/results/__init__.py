"""What every result can do: be saved, shown, taken as a table or as figures, and cited; and the card that ends its page."""
