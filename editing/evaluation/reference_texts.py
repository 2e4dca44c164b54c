"""The reference score: is a text that the edited model writes about its subject like texts about the new object?

Cosine of TF-IDF vectors, of the model's texts and of the reference texts for (relation, new object), with the weights
of all reference texts (Meng et al. 2022, "RS", on `attribute_snippets.json`). Words are runs of at least two letters
or digits in lower case; idf = ln((1 + n) / (1 + df)) + 1 over n texts, the customary smoothing.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factscope.errors import FactError

Vector = dict[str, float]


@dataclass(frozen=True, eq=False)
class Snippets:
    """Reference texts by "relation/object", and how telling each word is."""

    texts: dict[str, tuple[str, ...]]
    idf: Vector

    @classmethod
    def of(cls, texts: dict[str, tuple[str, ...]]) -> "Snippets":
        """Count in how many texts each word stands."""
        flat = [text for some in texts.values() for text in some]
        found = Counter(word for text in flat for word in set(words(text)))
        return cls(texts, {word: math.log((1 + len(flat)) / (1 + count)) + 1 for word, count in found.items()})

    @classmethod
    def load(cls, path: str | Path) -> "Snippets":
        """Read the published form: [{relation_id, target_id, samples: [{name, text}]}]. FactError if it is another."""
        path = Path(path)
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
            found = {
                f"{each['relation_id']}/{each['target_id']}": tuple(sample["text"] for sample in each["samples"])
                for each in records
            }
        except (OSError, ValueError, KeyError, TypeError) as trouble:
            raise FactError(
                f"{path.name} does not hold reference texts ({type(trouble).__name__}: {trouble})"
            ) from None
        return cls.of(found)

    def likeness(self, name: str, spoken: Sequence[str]) -> float | None:
        """Cosine of the texts together with the references of that name; None without either."""
        if not spoken or not self.texts.get(name):
            return None
        one, other = self._vector(" ".join(spoken)), self._vector(" ".join(self.texts[name]))
        lengths = [math.sqrt(sum(value**2 for value in vector.values())) for vector in (one, other)]
        if not all(lengths):
            return 0.0
        return sum(value * other.get(word, 0.0) for word, value in one.items()) / (lengths[0] * lengths[1])

    def _vector(self, text: str) -> Vector:
        return {word: count * self.idf[word] for word, count in Counter(words(text)).items() if word in self.idf}


def words(text: str) -> list[str]:
    """The words of a text that count."""
    return re.findall(r"\b\w\w+\b", text.lower())
