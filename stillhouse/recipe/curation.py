"""`curation`: from the teacher's completions to a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from stillhouse.recipe.section import Name, Section

LookIn = Literal["completion", "prompt", "both"]
PiiEntity = Literal[
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "IP_ADDRESS",
    "US_SSN",
    "CA_SIN",
    "CRYPTO",
    "DE_TAX_ID",
    "ES_NIE",
    "ES_NIF",
    "FI_PERSONAL_IDENTITY_CODE",
    "IN_AADHAAR",
    "IN_PAN",
    "IT_FISCAL_CODE",
    "MAC_ADDRESS",
    "PL_PESEL",
    "SE_PERSONNUMMER",
    "SG_NRIC_FIN",
    "UK_NHS",
    "UK_NINO",
    "URL",
    "US_ITIN",
]
_CODES = """
ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv
fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky
la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh
se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu
"""
LANGUAGES = frozenset(_CODES.split())
"""The codes that py3langid knows, but for `zxx`, which is no language."""

_Word = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]


class Length(Section):
    """How long a completion may be."""

    unit: Literal["words", "characters"] = Field(
        default="words", description="What is counted; words end at white space, which not every script has."
    )
    min: int | None = Field(default=None, ge=1, description="Shorter completions are dropped.")
    max: int | None = Field(default=None, ge=1, description="Longer completions are dropped.")

    def problems(self) -> Iterator[str]:
        if self.min is None and self.max is None:
            yield "give `min`, `max` or both"
        elif self.min is not None and self.max is not None and self.min > self.max:
            yield f"min ({self.min}) is more than max ({self.max})"


class Uncertainty(Section):
    """How sure the teacher must have been."""

    min_confidence: float = Field(
        default=0.2, gt=0, le=1, description="Smallest probability that the teacher may have given its completion."
    )
    per_token: bool = Field(
        default=False,
        description="Compare the geometric mean over the tokens instead of their product, which is small for every"
        " long text.",
    )


class Consistency(Section):
    """How far a record's completions must agree."""

    min_agreement: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="Smallest share of a record's completions (of an ensemble's votes) that give its most frequent"
        " answer. Below it the record goes with all of them.",
    )


class Language(Section):
    """Which languages a record may be in."""

    allowed: tuple[str, ...] = Field(min_length=1, description="ISO 639 codes: `[en, de]`.")
    min_confidence: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A record is dropped where another language has at least this probability. Short texts are unsure,"
        " and stay.",
    )
    look_in: LookIn = Field(default="completion", description="Which texts are looked at, each by itself.")

    def problems(self) -> Iterator[str]:
        if unknown := sorted(set(self.allowed) - LANGUAGES):
            yield f"`allowed` names {unknown[0]!r}, which is none of the codes known: {', '.join(sorted(LANGUAGES))}"


class Profanity(Section):
    """Which words no record may hold."""

    words: tuple[_Word, ...] = Field(default=(), description="Words beside better-profanity's own list.")
    allow: tuple[_Word, ...] = Field(default=(), description="Words of that list that may be said: `[god, hell]`.")
    look_in: LookIn = Field(default="completion", description="Which texts are looked at.")


class Pii(Section):
    """Which personal data no record may hold, as far as patterns and checksums tell."""

    entities: tuple[PiiEntity, ...] = Field(
        default=("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "US_SSN"),
        min_length=1,
        description="What is looked for, by presidio's names.",
    )
    min_score: float = Field(
        default=0.4, gt=0, le=1, description="Smallest score of presidio's that counts; 1 is a right checksum."
    )
    look_in: LookIn = Field(default="completion", description="Which texts are looked at.")


class Pattern(Section):
    """A regular expression whose records are dropped."""

    regex: str = Field(
        min_length=1, description="Searched for; `(?i)` at its start ignores case. A search may take a second."
    )
    look_in: LookIn = Field(default="completion", description="Which texts are searched, as they are written.")

    def problems(self) -> Iterator[str]:
        import regex  # type: ignore[import-untyped]

        try:
            regex.compile(self.regex)
        except regex.error as error:
            yield f"`regex` is not a regular expression: {error}"


class Filters(Section):
    """Which captured records may not teach, in the order of the funnel; none of these is on by default."""

    length: Length | None = Field(default=None, description="Completions too short or too long.")
    refusals: bool = Field(default=False, description="Completions that begin with a refusal, in English.")
    uncertainty: Uncertainty | None = Field(default=None, description="Completions that the teacher was unsure of.")
    consistency: Consistency | None = Field(default=None, description="Records whose completions disagree.")
    language: Language | None = Field(default=None, description="Texts in other languages.")
    profanity: Profanity | None = Field(default=None, description="Profane words, English; `{}` takes all defaults.")
    pii: Pii | None = Field(default=None, description="Personal data; `{}` takes all defaults.")
    patterns: dict[Name, Pattern] = Field(default_factory=dict, description="By names of your own, what may not occur.")
    python: str | None = Field(
        default=None,
        pattern=r"^[^:\s][^:]*:[A-Za-z_]\w*$",
        description="Your own function, `my_filters:keep` or `folder/my_filters.py:keep`: gets a dict with id, fields,"
        " completion, answer, gold and confidence; returns True to keep the record, False or a reason to drop it.",
    )


class Curation(Section):
    """How captured records become a dataset."""

    filters: Filters = Field(default_factory=Filters, description="Which records may not teach.")
    filter_held_out: bool = Field(
        default=True,
        description="Whether calibration and test lose what `filters` drop as well. `false` leaves them like the"
        " traffic that the promise is for.",
    )
    near_duplicate_similarity: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Jaccard similarity of word 3-grams from which two prompts are one group.",
    )
    semantic_similarity: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Cosine of MiniLM's embeddings from which two prompts are one group as well, 0.9 say. Default: they"
        " are not compared.",
    )
    duplicates: Literal["group", "drop"] = Field(
        default="group",
        description="What happens to near and semantic duplicates: `group` keeps them, on one side of the split; `drop`"
        " keeps the first of each group. Exact ones are always dropped.",
    )
    validation: float = Field(default=0.05, gt=0, lt=1, description="Share of records to watch the training with.")
    calibration: float = Field(default=0.1, gt=0, lt=1, description="Share of records to choose the threshold on.")
    test: float = Field(default=0.1, gt=0, lt=1, description="Share of records to evaluate on.")
    min_records: int = Field(default=50, ge=50, description="Fewer records than this after filtering stop the run.")

    def problems(self) -> Iterator[str]:
        if self.validation + self.calibration + self.test > 0.8:
            yield "validation, calibration and test together may take at most 0.8 of the records"
