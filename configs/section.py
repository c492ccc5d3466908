"""What every section of a recipe has in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=0, le=65535)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are checked on assignment as well."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, use_attribute_docstrings=True)

    changeable: ClassVar[frozenset[str]] = frozenset()
    """Keys that may differ when a run goes on from a checkpoint; "*" for all of them."""

    def fixed_differences(self, other: Self, at: str = "") -> Iterator[tuple[str, Any, Any]]:
        """``(key, own value, other's)`` of each key in which `other` differs though a run that goes on has to keep it."""
        for name in type(self).model_fields:
            own, theirs = getattr(self, name), getattr(other, name)
            if own == theirs or {name, "*"} & self.changeable:
                continue
            below = {"": (own, theirs)}
            if isinstance(own, dict) and isinstance(theirs, dict) and own.keys() == theirs.keys():
                below = {f".{key}": (own[key], theirs[key]) for key in own}
            if all(isinstance(value, Section) for pair in below.values() for value in pair):
                for key, (one, another) in below.items():
                    yield from one.fixed_differences(another, f"{at}{name}{key}.")
            else:
                yield f"{at}{name}", own, theirs
