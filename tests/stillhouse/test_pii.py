"""Personal data by pattern and checksum, without the network."""

from __future__ import annotations

import socket
from typing import Any, get_args

import pytest

from stillhouse.pii import _RECOGNIZERS, PiiDetector, PiiMatch
from stillhouse.recipe.curation import Pii, PiiEntity

EXAMPLES = {
    "EMAIL_ADDRESS": "jane.doe@example.com",
    "PHONE_NUMBER": "+44 20 7946 0958",
    "CREDIT_CARD": "4111 1111 1111 1111",
    "IBAN_CODE": "DE89 3704 0044 0532 0130 00",
    "IP_ADDRESS": "192.168.0.1",
    "US_SSN": "536-90-4399",
    "CA_SIN": "130 692 544",
    "CRYPTO": "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
    "DE_TAX_ID": "86095742719",
    "ES_NIE": "X9464186P",
    "ES_NIF": "12345678Z",
    "FI_PERSONAL_IDENTITY_CODE": "131052-308T",
    "IN_AADHAAR": "2345 6789 1238",
    "IN_PAN": "ABCPE1234F",
    "IT_FISCAL_CODE": "RSSMRA85T10A562S",
    "MAC_ADDRESS": "00:1B:44:11:3A:B7",
    "PL_PESEL": "44051401359",
    "SE_PERSONNUMMER": "811228-9874",
    "SG_NRIC_FIN": "S1234567D",
    "UK_NHS": "943 476 5919",
    "UK_NINO": "AB 12 34 56 C",
    "URL": "https://example.com/x",
    "US_ITIN": "912-70-1234",
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_entity_has_an_example_and_a_recognizer() -> None:
    assert {*get_args(PiiEntity)} == {*EXAMPLES} == {*_RECOGNIZERS}


@pytest.mark.parametrize("entity", get_args(PiiEntity))
def test_each_kind_is_found_where_it_stands(entity: PiiEntity) -> None:
    text = f"It is {EXAMPLES[entity]} as I said"
    found = PiiDetector([entity]).find(text)
    assert [(one.entity, text[one.start : one.end]) for one in found] == [(entity, EXAMPLES[entity])]
    assert PiiDetector([entity]).find("a warm and funny film of 1999, seen twice") == []


def test_a_wrong_checksum_is_no_card(caplog: pytest.LogCaptureFixture) -> None:
    detector = PiiDetector(Pii().entities)
    assert detector.find("paid with 4111 1111 1111 1112, order AB12345678") == []
    assert [one.entity for one in detector.find("paid with 4111-1111-1111-1111")] == ["CREDIT_CARD"]
    assert caplog.records == []


def test_a_mail_address_ends_in_a_public_suffix(capfd: pytest.CaptureFixture[str]) -> None:
    detector = PiiDetector(["EMAIL_ADDRESS"])
    assert detector.find("x@example.co.uk") == [PiiMatch("EMAIL_ADDRESS", 0, 15, 1.0)]
    assert detector.find("x@example.nosuchsuffix") == []
    assert capfd.readouterr().err == ""


def test_the_smallest_score_decides() -> None:
    text = "call 212-555-0143 or write to a@example.com"
    assert [one.entity for one in PiiDetector(Pii().entities).find(text)] == ["PHONE_NUMBER", "EMAIL_ADDRESS"]
    assert [one.entity for one in PiiDetector(Pii().entities, min_score=0.9).find(text)] == ["EMAIL_ADDRESS"]
