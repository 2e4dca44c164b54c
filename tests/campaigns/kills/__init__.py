"""Kills, full disks, foreign clocks, torn journals: long work that is stopped goes on to the same result."""
