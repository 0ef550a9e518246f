"""`data`: where the prompts come from."""

from __future__ import annotations

from pydantic import Field

from stillhouse.recipe.section import Section


class Data(Section):
    """Where the prompts come from."""

    path: str = Field(
        min_length=1,
        description="JSONL, CSV or Parquet: a path (relative to the recipe), `s3://bucket/key`, or `pkg://package/file`"
        " for a file inside an installed Python package.",
    )
    where: dict[str, str] = Field(default_factory=dict, description="Keep only rows whose columns equal these values.")
    label: str | None = Field(default=None, description="Column with the gold answer, if there is one.")
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="From the label column's values to the task's choices, where they differ.",
    )
    completion: str | None = Field(
        default=None, description="Column with completions that exist already; see `capture.completions`."
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Take that many rows, drawn with the recipe's seed. Default: all of them.",
    )
