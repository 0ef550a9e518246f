"""Personal data in texts, as far as patterns and checksums tell: presidio's recognizers, without a language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from stillhouse.recipe.curation import PiiEntity

_RECOGNIZERS: dict[PiiEntity, str] = {
    "EMAIL_ADDRESS": "EmailRecognizer",
    "PHONE_NUMBER": "PhoneRecognizer",
    "CREDIT_CARD": "CreditCardRecognizer",
    "IBAN_CODE": "IbanRecognizer",
    "IP_ADDRESS": "IpRecognizer",
    "US_SSN": "UsSsnRecognizer",
    "CA_SIN": "CaSinRecognizer",
    "CRYPTO": "CryptoRecognizer",
    "DE_TAX_ID": "DeTaxIdRecognizer",
    "ES_NIE": "EsNieRecognizer",
    "ES_NIF": "EsNifRecognizer",
    "FI_PERSONAL_IDENTITY_CODE": "FiPersonalIdentityCodeRecognizer",
    "IN_AADHAAR": "InAadhaarRecognizer",
    "IN_PAN": "InPanRecognizer",
    "IT_FISCAL_CODE": "ItFiscalCodeRecognizer",
    "MAC_ADDRESS": "MacAddressRecognizer",
    "PL_PESEL": "PlPeselRecognizer",
    "SE_PERSONNUMMER": "SePersonnummerRecognizer",
    "SG_NRIC_FIN": "SgFinRecognizer",
    "UK_NHS": "NhsRecognizer",
    "UK_NINO": "UkNinoRecognizer",
    "URL": "UrlRecognizer",
    "US_ITIN": "UsItinRecognizer",
}
_BY_SUFFIX: tuple[PiiEntity, ...] = ("EMAIL_ADDRESS", "URL")
"""Those that are right if their domain ends in a public suffix."""


class PiiMatch(NamedTuple):
    """Personal data at `text[start:end]`; `score` in (0, 1] is presidio's, 1 where a checksum is right."""

    entity: str
    start: int
    end: int
    score: float


class PiiDetector:
    """Finds the given entities. Its first use imports presidio, which takes seconds; nothing is asked of the network.

    Names, places and addresses are not found: they take a model of the language. Context words such as "SSN:" do not
    raise a score either.
    """

    def __init__(self, entities: Sequence[PiiEntity], *, min_score: float = 0.4) -> None:
        self._recognizers = [_recognizer(entity) for entity in entities]
        self._min_score = min_score

    def find(self, text: str) -> list[PiiMatch]:
        """What is found with at least the smallest score, in the text's order; matches of two kinds may overlap."""
        found = [
            PiiMatch(result.entity_type, result.start, result.end, result.score)
            for recognizer in self._recognizers
            for result in recognizer.analyze(text, recognizer.supported_entities, None)
            if result.score >= self._min_score
        ]
        return sorted(found, key=lambda match: (match.start, match.end, match.entity))


@cache
def _recognizer(entity: PiiEntity) -> Any:
    from presidio_analyzer import predefined_recognizers

    known = getattr(predefined_recognizers, _RECOGNIZERS[entity])
    if entity not in _BY_SUFFIX:
        return known()
    import tldextract

    # Presidio's own look-up fetches the list of public suffixes; this one reads the copy that tldextract carries.
    suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class Offline(known):  # type: ignore[misc, valid-type]
        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text).top_domain_under_public_suffix)

    return Offline()
