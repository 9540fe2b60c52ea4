import re
from pathlib import Path

import pytest

from pipeline.models.zoo import zoo_names, zoo_url

OPTIONS = sorted((Path(__file__).parents[3] / "conf" / "model").glob("*.yaml"))
LISTED = [path for path in OPTIONS if "with zoo weights:" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", LISTED, ids=lambda path: path.stem)
def test_options_list_the_variants_with_weights(path):
    text = path.read_text(encoding="utf-8")
    prefix = re.search(r"^config: (.*)\$\{\.variant\}", text, re.MULTILINE)[1]
    comment = text[text.index("with zoo weights:") : text.index("\nname:")]
    known = {name.removeprefix(prefix) for name in zoo_names() if name.startswith(prefix)}
    # dconv requires an official build of Detectron2
    with_weights = {each for each in known if zoo_url(prefix + each) and "dconv" not in each}
    assert set(re.findall(r"\b[RX]_\w+", comment)) == with_weights
    assert len(LISTED) == 6
