import pytest

from fused_dropout.functional import _attention


@pytest.fixture(autouse=True)
def no_scores_are_small(monkeypatch):
    """The tests use small tensors, for which attention would run as plain operators."""
    monkeypatch.setattr(_attention, "_SMALL", 0)
