"""Did an edit work, does it hold, and what else did it change?"""
