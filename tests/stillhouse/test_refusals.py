"""Refusals, and what sounds like one."""

from __future__ import annotations

import pytest

from stillhouse.refusals import refusal

REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I can’t help with that request.",
    "I'm sorry, I cannot assist with that request.",
    "I cannot fulfill this request.",
    "I can't help with that.",
    "I am unable to provide medical advice.",
    "I'm unable to help with this.",
    "As an AI language model, I don't have personal opinions.",
    "As an AI, I cannot browse the internet.",
    "As a language model, I'm not able to access real-time data.",
    "Sorry, I can't help with that.",
    "Sorry, but I can't provide that information.",
    "Unfortunately, I cannot provide the details.",
    "I apologize, but I cannot provide that information.",
    "I apologize, but I can't assist with this.",
    "My apologies, but I cannot generate that content.",
    "I must decline to answer this question.",
    "I won't help with creating malware.",
    "I will not provide instructions for that.",
    "I do not feel comfortable writing about this topic.",
    "I'm not able to help with that.",
    "I am not able to assist you with this request.",
    "I'm just an AI and cannot give legal advice.",
    "I'm an AI language model and don't have access to your files.",
    "That goes against my programming.",
    "This would violate OpenAI's usage policies: it violates OpenAI's content policy.",
    "I'm afraid I can't do that.",
    "I cannot in good conscience provide that.",
    "I can't provide a summary because the text is empty.",
    "I'm really sorry, but I can't help with that.",
    "I am so sorry, but I cannot assist with that.",
    "I'm very sorry, but I'm unable to provide the help that you need.",
    "Sorry, I am not able to translate this.",
    "I'm sorry, but as an AI language model, I cannot express opinions.",
    "I'm not programmed to answer such questions.",
    "I cannot and will not provide instructions for this.",
    "I cannot create content that is harmful.",
    "I can not answer that.",
    "I don't feel comfortable answering that.",
    "Your request appears to be harmful.",
    "I have to decline to write that.",
    "I'd be happy to help, but I can't access external links.",
    "I don't have access to real-time information.",
    "I don't have the ability to open files.",
]

ANSWERS = [
    "I can't help but smile at this film.",
    "I cannot help noticing the colours.",
    "It is filmed so beautifully that I couldn't help being captivated by it.",
    "I'm sorry to hear about your order. We will send a new one.",
    "I'm sorry, I can't make it tonight.",
    "Sorry for the late reply, the invoice is attached.",
    "Unfortunately, the film is not good.",
    "The assistant said he could not help.",
    "You can't assist a murderer and stay free.",
    "I can't recommend this film enough.",
    "I cannot recommend it highly enough.",
    "I am an engineer and do not like this.",
    "The team cannot provide support on weekends.",
    "Our policy is to refund within 30 days.",
    "He refused to answer.",
    "They won't give refunds.",
    "The request is pending.",
    "positive",
    "I don't know.",
    "As an AI company, Acme sells models.",
    "As an assistant manager, I do not work on Sundays.",
    "We apologise for the delay. Your parcel cannot be found.",
    "I can't see the point of this movie.",
    "I will not describe the plot; it is charming.",
    "I won't give away the ending.",
    "I can't complete my order because the page is broken.",
    "I can't access my account, please help.",
    "I cannot open the app since the update.",
    "I don't have access to the building any more.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal(text: str) -> None:
    assert refusal(text)
    assert refusal(f"  {text.upper()}\n\nIs there anything else?")


@pytest.mark.parametrize("text", ANSWERS)
def test_no_refusal(text: str) -> None:
    assert refusal(text) is None


def test_a_refusal_that_comes_late_is_an_answer_before() -> None:
    answer = "Here is the summary that you asked for. " * 10
    assert refusal(answer + REFUSALS[0]) is None
    assert refusal("") is None


def test_the_phrase_is_told() -> None:
    assert refusal("Well, I’m sorry, but I can’t assist with\nthat.") == "i'm sorry, but i can't assist"
