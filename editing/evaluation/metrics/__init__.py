"""What the rows of a case are worth: one decorated function a metric, found by its name, defined with its source.

A file for each family of metrics, in the order of the table; `editing/evaluation/table.py` averages over cases.
"""

import importlib

from editing.evaluation.metrics.metric import METRICS, Metric, Record, full, label, mark

__all__ = ["METRICS", "Metric", "Record", "full", "label", "mark"]

for _family in ("counterfact", "efficacy", "wordings", "beyond", "pooled", "chains", "erasure", "texts"):
    importlib.import_module(f"{__name__}.{_family}")
