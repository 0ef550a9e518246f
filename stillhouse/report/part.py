"""What every part of the report is."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of the report: read only, without unknown keys, and every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
