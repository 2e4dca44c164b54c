"""Methods whose edits stand beside a projection and speak only where a gate opens."""
