"""One word per thing: what a user reads is free of the words that docs/glossary.md dropped."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"


def dropped():
    """Return the words of the last column of the glossary, each with the word to use."""
    rows = [line.strip("| ").split("|") for line in GLOSSARY.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in row] for row in rows]
    return {old.strip(): row[0] for row in rows[1:] if len(row) == 3 for old in row[2].split(",")}


def texts():
    """Yield (where, text) of all that a user reads: pages, templates, and strings of more than one word in the code."""
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "bench").glob("*.md")]:
        if path != GLOSSARY:
            yield path.name, re.sub(r"```.*?```|`[^`]*`", " ", path.read_text(), flags=re.DOTALL)
    for path in (ROOT / "genmem" / "report").glob("*.html"):
        yield path.name, re.sub(r"\{[{%].*?[}%]\}", " ", path.read_text(), flags=re.DOTALL)
    for folder in ("genmem", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", re.sub(r"`[^`]*`", " ", node.value)


def offenders(words, said):
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, words))})(?![\w-])", re.IGNORECASE)
    for where, text in said:
        for match in pattern.finditer(" ".join(text.split())):
            yield f"{where}: {match.group()!r}, say {words[match.group().lower()]!r}"


def test_dropped_words_are_not_used():
    words = dropped()
    assert len(words) >= 10 and words["nearer"] == "closer, closest"
    assert sorted(offenders(words, texts())) == []


def test_a_dropped_word_is_seen():
    said = [("page", "Its Twin lies nearer; neediest_label is a name.")]
    assert list(offenders(dropped(), said)) == [
        "page: 'Twin', say 'duplicate'",
        "page: 'nearer', say 'closer, closest'",
    ]
