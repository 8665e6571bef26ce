"""The field's terms: words that were private to this project stay out of code, tests and documents.

One term for one thing. A word here has a better-known one; where it is the field's in some place,
that place is allowed by name.
"""

import re

from tests.house.conftest import Tree

PRIVATE = {
    r"told|untold|yeses": "notified, returned, grants",
    r"lanes?|standing|heard|beats?": "connection pools, writer status, notified, heartbeat",
    r"swept|sweeps|moments?|troubles?|believ\w*": "tick, timestamp, fault, used",
    r"debris|salvag\w*": "orphans, recovery",
    r"verdicts?": "result, status, outcome",
    r"zygotes?|witness(?:es|ed)?|ledgers?": "fork server, recorder, history",
    r"front doors?|frontdoor": "the server package, response cache",
    r"furnish\w*|intakes?": "create, body reader",
    r"amnesia\w*|lays? over|overlays?": "lost state, apply pending writes",
    r"tethers?|reapers?|narrators?|greetings?": "parent death, cleanup, progress, banner",
    r"set aside|set_aside|aside": "quarantined, corrupted",
    r"makes? room|human's word": "evicts, operator override",
    r"hears of|look_out|asked_?again|asks_again": "notified, poll, retried",
    r"one_in|few_lapsed": "LAPSED_DIVISOR",
}
ALLOWED = {
    "tests/house/test_words.py",
    "CHANGELOG.md",  # names what was renamed
}
CHECKED = (".py", ".sql", ".md", ".yaml", ".tpl", ".in")

WORD = re.compile(
    r"(?<![A-Za-z])(?:" + "|".join(PRIVATE) + r")(?![A-Za-z])",
    re.IGNORECASE,
)


def private_words(tree: Tree) -> list[str]:
    return [
        f"{path}: {found.group()}"
        for path, text in tree.items()
        if path.endswith(CHECKED) and path not in ALLOWED
        for found in WORD.finditer(text)
    ]


def test_no_private_word_is_used(tree: Tree) -> None:
    assert private_words(tree) == []


def test_the_rule_sees_words_in_names_and_sentences() -> None:
    text = "class Verdict: ...\nset_aside = 1  # heard_of\nunderstanding"

    assert private_words({"a.py": text}) == [
        "a.py: Verdict",
        "a.py: set_aside",
        "a.py: heard",
    ]
