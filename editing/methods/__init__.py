"""The editing methods, one file for each; found by listing this folder and imported only when chosen."""
