"""Kills, full disks, foreign clocks and torn journals: long work that is stopped anywhere goes on to the same result."""
