"""What is chosen by name: the files of one folder, and what other installed packages offer under an entry-point group.

A file is found by listing and imported only when it is chosen; folders in the folder are rooms, whose files are listed
too. Another package offers a value by

    [project.entry-points."factscope.methods"]
    my_method = "my_package.my_module:METHOD"

in its pyproject.toml. A name that two places offer is refused when it is chosen, and the message names both.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Generic, TypeVar

from factscope.errors import UserError

T = TypeVar("T")


def key(name: str) -> str:
    """A name as the catalogue spells it: "FT-M" is ft_m."""
    return name.lower().replace("-", "_")


def places(folder: ModuleType, group: str, attribute: str) -> dict[str, tuple[str, ...]]:
    """Where each name is offered, as "module:attribute"; nothing is imported."""
    rooms = {""} | {f"{one.name}." for one in pkgutil.iter_modules(folder.__path__) if one.ispkg}
    found = {
        one.name: (f"{folder.__name__}.{room}{one.name}:{attribute}",)
        for room in sorted(rooms)
        for one in pkgutil.iter_modules([f"{path}/{room.rstrip('.')}" for path in folder.__path__])
        if not one.ispkg
    }
    for point in sorted(entry_points(group=group), key=lambda point: point.value):
        before = found.get(key(point.name), ())
        if point.value not in before:
            found[key(point.name)] = (*before, point.value)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Catalogue(Generic[T]):
    """Values of one kind, by name."""

    kind: str  # what a message calls such a value
    folder: ModuleType
    attribute: str  # the name of the value in each file
    cls: type[T]
    error: type[UserError] = UserError

    @property
    def group(self) -> str:
        """The entry-point group of other packages: "factscope." and the folder's name."""
        return f"factscope.{self.folder.__name__.rpartition('.')[2]}"

    def names(self) -> tuple[str, ...]:
        """Every name, in order."""
        return tuple(places(self.folder, self.group, self.attribute))

    def get(self, name: str) -> T:
        """The value of that name; a user's mistake, with the names there are, where nothing or too much has it."""
        every = places(self.folder, self.group, self.attribute)
        if key(name) not in every:
            raise self.error(f"there is no {self.kind} {name!r}; choose one of {', '.join(every)}")
        first, *more = every[key(name)]
        if more:
            raise self.error(
                f"the {self.kind} {name!r} is offered more than once, by {first} and by {' and '.join(more)}"
            )
        return self._loaded(key(name), first)

    def _loaded(self, name: str, place: str) -> T:
        module, _, attribute = place.partition(":")
        foreign = not module.startswith(f"{self.folder.__name__}.")
        try:
            value = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as trouble:
            if not foreign:
                raise
            raise self.error(f"the {self.kind} {name!r} cannot be imported from {place} ({trouble})") from trouble
        if not isinstance(value, self.cls) or getattr(value, "name", name) != name:
            raise self.error(f"{place} is not a {self.cls.__name__} named {name!r}, which an entry point says it is")
        return value
