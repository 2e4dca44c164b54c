"""Running a model with some of its edges: what writers write, the reference engine, and the faster one."""
