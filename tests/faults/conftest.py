"""One nursery for all drills of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.drill import Drill
from tests.faults.nursery import Nursery


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture
def drill(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Drill]:
    made = Drill(tmp_path_factory.mktemp("drill"), nursery)  # a short name: sockets lie in it
    yield made
    made.close()


Told = Callable[..., None]


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Told:
    """Notes what a drill saw, for the table of faults (see `tests.faults.__main__`)."""

    def tell(fault: int, observed: str, recovery_s: float | None = None) -> None:
        record_property(f"fault {fault}", observed)
        if recovery_s is not None:
            record_property(f"recovery {fault}", f"{recovery_s:.2f}")

    return tell
