"""Refusals, by the phrases that English-speaking models begin them with."""

from __future__ import annotations

import re

_OPENING = 240
"""Characters from the start that are looked at: a refusal comes first, or after a short apology."""

_CANNOT = (
    r"(?:can(?:no|')t|can not|could(?:n't| not)|won't|will not|am not able|'m not able|am unable|'m unable|must decline"
    r"|(?:have|need) to decline|must refuse|respectfully decline|refuse|decline|am not (?:allowed|permitted|going)"
    r"|'m not (?:allowed|permitted|going)|do(?:n't| not) feel comfortable|'m not comfortable|am not comfortable)"
    r"(?: (?:and|or) (?:will not|won't|cannot|can't))?"
)
_OUT_OF_REACH = (
    r"(?:(?:the )?internet|(?:the )?web|(?:any |the )?(?:external|real-time|live|current|up-to-date|private|personal)\b"
    r"|(?:any |the |your |this |that )?(?:files?|images?|pictures?|attachments?|documents?|links?|urls?|websites?)\b)"
)
# Each as an assistant says it: customers who "can't access my account" and critics who "can't recommend it enough"
# say much the same.
_DO = (
    r"(?:assist|help(?! (?:but|it|\w+ing)\b|ing)|comply|fulfill?|answer"
    r"|respond|provid(?:e|ing)|offer|give (?:you|advice|instructions|medical|legal|financial|specific|an opinion)|share"
    r"|disclose|reveal|supply|create|generate|produce|writ(?:e|ing)|compose|draft|craft|continue with|engage"
    r"|complete (?:this|that|your|the) (?:request|task|form)|participate|discuss|support|promote|encourage|facilitate"
    r"|endorse|condone|explain how|instruct|teach|advise|recommend(?! .{0,30}\b(?:enough|highly|more|it|this)\b)"
    r"|suggest|translate|summari[sz]e|classify|process|perform|carry out|do (?:that|this)"
    rf"|(?:access|browse|view|open|see|read) {_OUT_OF_REACH})"
)
_PHRASES = (
    rf"\bi(?:'m| am)? ?(?:sorry|afraid|apologi[sz]e)?,? ?(?:but )?(?:i )?(?:really |simply |just |also )?{_CANNOT}"
    rf"(?: to| be able to)?(?: directly| actually| ethically| in good conscience| currently)? {_DO}",
    rf"\b(?:sorry|unfortunately|regrettably|apologies|i apologi[sz]e),? (?:but |however,? )?(?:i|we) ?{_CANNOT}"
    rf"(?: to| be able to)? {_DO}",
    rf"\bas an? (?:ai|artificial intelligence|(?:large )?language model|assistant|chatbot)\b[^.!?\n]{{0,60}}?,? i ?"
    rf"(?:{_CANNOT}|do(?:n't| not) have|have no|am not capable|'m not capable|am not|'m not)\b",
    r"\bi(?:'m| am) (?:just |only |merely )?an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"[^.!?\n]{0,80}?\b(?:can(?:no|')t|not able|unable|do(?:n't| not)|not (?:capable|designed|programmed))",
    r"\b(?:against|violates?|goes against|not (?:allowed|permitted) by|contrary to) (?:my|openai's|our|the)"
    r" (?:programming|(?:ethical |safety |content |usage )?(?:guidelines|polic(?:y|ies)|principles))",
    rf"\bi do(?:n't| not) have (?:the (?:ability|capability) to\b|access to {_OUT_OF_REACH})",
    r"\bi(?:'m| am) (?:not programmed|not designed|prohibited) (?:to|from)\b",
    r"\b(?:this|that|the|your) request (?:is|appears|seems)[^.!?\n]{0,40}? (?:inappropriate|harmful|unethical|illegal)",
)
_REFUSAL = re.compile("|".join(_PHRASES))


def refusal(text: str) -> str | None:
    """The phrase with which a text refuses near its beginning; None if it does not.

    English alone. A refusal without such a phrase, or after a long beginning, is not found.
    """
    opening = " ".join(text.split())[:_OPENING].lower().translate({0x2018: "'", 0x2019: "'"})
    found = _REFUSAL.search(opening)
    return found.group() if found else None
