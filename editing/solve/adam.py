"""Adam (Kingma and Ba 2015), as a value search and a fine-tuning step both take it.

    m := 0.9 m + 0.1 g        v := 0.999 v + 0.001 g^2        direction = m^ / (sqrt(v^) + 1e-8)

m^ and v^ are m and v without their bias towards zero. Every entry goes its own way, so rows that stand side by side in
one tensor learn as each would alone. What is done with the direction (rate, clamp, who is finished) is the caller's.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(eq=False)
class Adam:
    """The moments of one tensor's gradient, and how many of them there were."""

    moment: Tensor | float = 0.0
    square: Tensor | float = 0.0
    steps: int = 0

    def direction(self, gradient: Tensor) -> Tensor:
        """Take the gradient in; what to go against, of the size 1 where gradients agree."""
        self.steps += 1
        self.moment = 0.9 * self.moment + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        first, second = self.moment / (1 - 0.9**self.steps), self.square / (1 - 0.999**self.steps)
        going: Tensor = first / (second.sqrt() + 1e-8)
        return going
