"""The page on policies shows a section that is one, and every score."""

import re
from pathlib import Path
from typing import get_args

import yaml

from stillhouse.calibration import smallest_sample
from stillhouse.calibration.select import FIXED
from stillhouse.recipe import Evaluation
from stillhouse.recipe.release import ScoreName

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")


def test_the_section_on_the_page_is_one() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    section = Evaluation.model_validate(yaml.safe_load(block)["evaluation"])
    assert section == Evaluation(windows=(16, 32)), "the defaults, and two windows"
    assert smallest_sample(section.alpha, section.delta) == 29
    assert "29 for α = 0.1 and δ = 0.05" in PAGE


def test_every_score_has_its_row_with_whether_it_can_only_fall() -> None:
    rows = re.findall(r"^\| (`.*?) \| .* \| (yes|no|[^|]*) \|$", PAGE, re.MULTILINE)
    told = {name: falls.strip() for names, falls in rows for name in re.findall(r"`(\w+)`", names)}
    known = {name for part in get_args(ScoreName) for name in get_args(part)}
    assert known <= set(told)
    for name, score in FIXED.items():
        assert told[name] == ("yes" if score.falls else "no"), name
