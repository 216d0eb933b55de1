"""The Go oracle, compiled once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.oracle import LIBRARIES, Oracle, running
from tests.lacking import need


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    need("go", f"{LIBRARIES}/src/golang.org/x/mod")
    with running(tmp_path_factory.mktemp("go")) as started:
        yield started
