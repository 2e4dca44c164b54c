"""Run folders: provenance, results, journals of long work."""
