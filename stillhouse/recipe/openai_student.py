"""`student.openai`: a commercial model as the student, fine-tuned and asked through its API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.recipe.section import Section


class OpenAIStudent(Section):
    """A student that is fine-tuned through OpenAI's API, and answers there; it learns from words alone."""

    model: str = Field(min_length=1, description="The model to fine-tune, `gpt-4o-mini-2024-07-18` say.")
    url: str = Field(
        default="https://api.openai.com/v1",
        pattern=r"^https?://[^\s@?#]+$",
        description="Base address of the API: OpenAI's, or of another that has its files, fine-tuning jobs and chat.",
    )
    api_key_env: str | None = Field(
        default="OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the key; null for an endpoint without keys.",
    )
    method: Literal["supervised"] = Field(default="supervised", description="How it is fine-tuned.")
    suffix: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Goes into the fine-tuned model's name. Default: the recipe's name.",
    )
    epochs: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="Passes over the training records; `auto`: the API chooses."
    )
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="Records in one step; `auto`: the API chooses."
    )
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        default="auto", description="Scales the API's own learning rate; `auto`: the API chooses."
    )
    max_example_tokens: int = Field(
        default=65_536,
        ge=16,
        description="Longest prompt and answer together that the API trains on, in tokens: 65,536 for gpt-4o-mini and"
        " gpt-4.1, less for older models.",
    )
    max_concurrency: int = Field(
        default=32, ge=1, le=4096, description="Most requests at once; fewer while the endpoint is busy."
    )
    timeout_s: float = Field(default=120.0, gt=0, description="Longest wait for one answer, in seconds.")
    max_attempts: int = Field(default=6, ge=1, le=20, description="How often a request is sent before it has failed.")
    poll_s: float = Field(default=30.0, gt=0, description="Seconds between two looks at the fine-tuning job.")
