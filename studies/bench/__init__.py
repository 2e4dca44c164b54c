"""Methods judged side by side on a benchmark.

From the top: `bench` takes cases and methods and gives the result; `setting` cuts the cases into steps; `run` says who
does which step when; `runner` takes one method through them, with its journal; `step` makes one edit and reads it.
`method_result` is what is kept of a method; `page` and `compare` show it.
"""
