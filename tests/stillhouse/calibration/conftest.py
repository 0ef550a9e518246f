"""Small fits are slower on several threads than on one, and much slower beside other work."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    import sklearn.isotonic  # noqa: F401  # its libraries are limited only once they are loaded

    with threadpool_limits(1):
        yield
