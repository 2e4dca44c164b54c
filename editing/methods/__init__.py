"""The editing methods, one file for each in rooms by kind; found by listing them and imported only when chosen."""
