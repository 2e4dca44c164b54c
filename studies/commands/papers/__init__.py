"""Commands whose results are the tables of papers."""
