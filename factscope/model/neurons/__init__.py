"""Which neurons of the MLPs carry an answer: attribution, and the choice of a few of them."""
