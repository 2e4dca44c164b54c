"""How an editor that makes changes learns: by what the model says once they are in place.

loss = edit_weight * NLL of the new answer behind another wording
     + keep_weight * KL(unedited || edited) behind prompts that must stay            nats, means over the examples
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from editing.trained.examples import After, Asker
from editing.trained.facts import Example
from editing.trained.learning import Learner, Parts


class ChangeLearner(Learner):
    """An editor that makes a change of each example, or one of all of them."""

    def __init__(self, asker: Asker, edit_weight: float = 1.0, keep_weight: float = 1.0) -> None:
        self.asker, self.edit_weight, self.keep_weight = asker, edit_weight, keep_weight

    @abstractmethod
    def changes(self, parts: Parts, batch: Sequence[Example]) -> Any:
        """The change of each example, or of all, as `asker` puts it in."""

    def cost(self, after: After) -> Tensor:
        """The loss of this file."""
        return self.edit_weight * after.other.mean() + self.keep_weight * after.moved.mean()

    def losses(self, parts: Parts, batch: Sequence[Example]) -> dict[str, Tensor]:
        """The loss, and its two parts without their weights."""
        after = self.asker.after(batch, self.changes(parts, batch))
        return {"loss": self.cost(after), "edit": after.other.mean(), "keep": after.moved.mean()}

    def answers(self, parts: Parts, batch: Sequence[Example]) -> dict[str, list[float]]:
        """As `Asker.answers`, with the loss."""
        changes = self.changes(parts, batch)
        loss = float(self.cost(self.asker.after(batch, changes)))
        return self.asker.answers(batch, changes) | {"loss": [loss] * len(batch)}
