"""What follows from an edit over several steps: MQuAKE's chains and RippleEdits' tests."""

from editing.evaluation.metrics.metric import GIVEN, Measure, Record, full, metric
from factscope.statistics import mean


@metric("edit-wise", "share", "Zhong et al. 2023, MQuAKE", GIVEN)
def edit_wise(record: Record) -> float | None:
    """Edited facts that are recalled."""
    if not record.of("multi-hop"):
        return None
    return mean([float(full(one, record.scorer)) for row, one in record.of("rewrite")])


@metric("instance-wise", "share", "Zhong et al. 2023, MQuAKE", GIVEN)
def instance_wise(record: Record) -> float | None:
    """All steps of the chain are recalled, as they are after the edits."""
    steps = record.trials("hop")
    return float(all(steps)) if steps else None


@metric("multi-hop", "share", "Zhong et al. 2023, MQuAKE", GIVEN)
def multi_hop(record: Record) -> float | None:
    """Any of the chain's three questions is answered."""
    return mean([float(passed) for passed in record.trials("multi-hop")])


def _ripple(label: str) -> Measure:
    def measure(record: Record) -> float | None:
        if record.when != "before" and not all(full(one, record.scorer) for r, one in record.of("rewrite")):
            return None  # as its authors do, only edits that succeeded are asked what follows
        return mean([float(passed) for passed in record.trials("ripple", label)])

    measure.__doc__ = f"Tests of {label} that pass, of those whose conditions the unedited model meets."
    return measure


for _label in (
    "relation specificity",
    "logical generalization",
    "subject aliasing",
    "compositionality I",
    "compositionality II",
    "forgetfulness",
):
    metric(f"ripple, {_label}", "share", "Cohen et al. 2024, RippleEdits; edits that succeeded", GIVEN)(_ripple(_label))
