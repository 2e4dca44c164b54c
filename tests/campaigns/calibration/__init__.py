"""Calibration: of every p-value and interval, by simulation where the truth is known, whether 5 % is 5 %."""
