"""Text in pictures: what it may be made of, how wide it is, and where it is cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

ELLIPSIS = "…"

# Advance widths of Liberation Sans from U+0020 to U+007E in thousandths of its size; those of Arial
# and Helvetica are the same.
_REGULAR = (
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556,
    556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667,
    611, 778, 722, 278, 500, 667, 556, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667,
    667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500,
    222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
)  # fmt: skip
_BOLD = (
    278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556,
    556, 556, 556, 556, 556, 556, 556, 333, 333, 584, 584, 584, 611, 975, 722, 722, 722, 722, 667,
    611, 778, 722, 278, 556, 722, 611, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667,
    667, 611, 333, 278, 333, 584, 556, 333, 556, 611, 556, 611, 556, 333, 611, 611, 278, 278, 556,
    278, 889, 611, 611, 611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389, 280, 389, 584,
)  # fmt: skip
_OTHER, _WIDE, _SPACE = 667, 1000, 278

# Nobody reads more of one text in a picture, and the rest must not cost anything.
_LONGEST = 400


def clean(text: str) -> str:
    """The text on one line, without what XML cannot carry and what turns the direction of others.

    Control characters, marks of direction and other invisible formatting are left out.
    """
    is_clean = text.isprintable() and "  " not in text and text == text.strip(" ")
    if is_clean and len(text) <= _LONGEST:
        # As nearly all are, and a page has thousands.
        return text
    shown = text[:_LONGEST] + (ELLIPSIS if len(text) > _LONGEST else "")
    # The space that no line may break at is one of ours.
    spaced = (" " if c.isspace() and c != "\xa0" else c for c in shown)
    kept = "".join(c for c in spaced if _is_shown(c))
    return " ".join(part for part in kept.split(" ") if part)


def _is_shown(char: str) -> bool:
    return unicodedata.category(char) not in {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


def width(text: str, size: float, *, is_bold: bool = False) -> float:
    """How wide the text is; exact for ASCII, an upper estimate of everything else."""
    widths = _BOLD if is_bold else _REGULAR
    return sum(_advance(char, widths) for char in text) * size / 1000


def _advance(char: str, widths: Sequence[int]) -> int:
    place = ord(char) - 32
    if 0 <= place < len(widths):
        return widths[place]
    if char == "\xa0":
        return _SPACE
    if unicodedata.combining(char):
        return 0
    is_wide = char in "…▲▼→—" or unicodedata.east_asian_width(char) in "WF"
    return _WIDE if is_wide else _OTHER


def fit(text: str, room: float, size: float, *, is_bold: bool = False) -> str:
    """As much of the text as the room takes, with an ellipsis where it was cut."""
    shown = clean(text)
    if width(shown, size, is_bold=is_bold) <= room:
        return shown
    room -= width(ELLIPSIS, size)
    taken = 0.0
    for place, char in enumerate(shown):
        taken += width(char, size, is_bold=is_bold)
        if taken > room:
            return shown[:place].rstrip() + ELLIPSIS if place else ""
    return shown


def wrap(text: str, room: float, size: float, most: int) -> list[str]:
    """The text in lines that the room takes, `most` of them at most."""
    lines: list[str] = []
    line = ""
    words = clean(text).split()
    for place, word in enumerate(words):
        longer = f"{line} {word}".strip()
        if width(longer, size) <= room:
            line = longer
            continue
        if len(lines) == most - 1:
            return [*lines, fit(" ".join([line, *words[place:]]).strip(), room, size)]
        if line:
            lines.append(line)
        line = fit(word, room, size)
    return [*lines, line] if line else lines


def labels(names: Iterable[str], room: float, size: float) -> dict[str, str]:
    """A label for each name; names that begin alike and are cut stay apart."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        if name in found:
            continue
        if not name:
            found[name] = name
            continue
        label, number = fit(name, room, size) or "(blank)", 1
        while label in taken:
            number += 1
            tail = f" ({number})"
            label = (fit(name, room - width(tail, size), size) or "(blank)") + tail
        found[name] = label
        taken.add(label)
    return found
