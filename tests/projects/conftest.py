import pytest

from .contract import make_input


@pytest.fixture
def batch():
    """Images of three sizes, one without objects, with labels below contract.NUM_CLASSES."""
    return [
        make_input(64, 96, [[4.0, 8, 40, 50], [50, 10, 90, 60]], [1, 4], seed=1),
        make_input(80, 56, [], [], seed=2),
        make_input(48, 64, [[10.0, 10, 20, 30]], [0], seed=3),
    ]
