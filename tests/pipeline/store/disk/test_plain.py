import pytest

from pipeline.errors import ConfigError
from pipeline.store.disk.info import sealed
from pipeline.store.disk.plain import plain_metadata

ITSELF = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param({"a": ITSELF}, "nested too deeply or contains itself", id="itself"),
        pytest.param({"a": 1 << 5000}, "expected text, finite numbers", id="huge-number"),
    ],
)
def test_refused_metadata(metadata, message):
    with pytest.raises(ConfigError, match=message):
        plain_metadata(metadata)


def test_unreadable_values_are_rejected():
    assert sealed({"metadata": {"curve": list(range(20_000))}})
    with pytest.raises(ConfigError, match="Save other and large data as custom_objects"):
        sealed({"metadata": {"curve": list(range(60_000))}})
