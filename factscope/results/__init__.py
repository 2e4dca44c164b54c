"""What every result can do: be saved, shown, taken as a table or as figures, and cited; and its page's last card."""
