"""Commands that read states: `trace patchscope` and those beside it."""
