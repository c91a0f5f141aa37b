"""What tests of claims share."""

import pytest

from nla_data.writing import lease


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims are looked at often."""
    for name, seconds in (("RENEW_S", 0.2), ("_LOOK_S", 0.1)):
        monkeypatch.setattr(lease, name, seconds)
