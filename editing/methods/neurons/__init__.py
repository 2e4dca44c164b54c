"""Methods that change the rows of single neurons, found by attribution (factscope/model/neurons)."""
