"""Sources that the tests of the compiler share."""

import pytest
from small_kernel import write_sources


@pytest.fixture
def sources(tmp_path):
    """A folder of sources that compile."""
    return write_sources(tmp_path / "sources")
