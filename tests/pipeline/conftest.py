from pathlib import Path

import pytest
import yaml

TINY = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
}


@pytest.fixture
def tiny_opts() -> list[object]:
    """Overrides that make an R-CNN of the zoo small enough to build in an instant."""
    return [item for pair in TINY.items() for item in pair]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def write_yaml(tmp_path: Path):
    def write(name: str, data: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
        return path

    return write
