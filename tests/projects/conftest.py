import pytest

from detrex_lite.testing import make_batch


@pytest.fixture
def batch():
    """Images of three sizes, one without objects; see `make_batch`."""
    return make_batch()
