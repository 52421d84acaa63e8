"""Makes text of unknown origin safe to show: what would act on a terminal or a page appears as `\\x1b` instead."""

import unicodedata

_JOINERS = "\u200c\u200d"  # Persian words and compound emoji are written with them; they change nothing around them
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format (marks of direction), surrogate, separators


def printable(text: str, keep: str = "") -> str:
    """Escape control and format characters, except those in `keep` (line breaks, say)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if character in keep or not acts(character) else escape(character) for character in text)


def spreadsheet_text(text: str, keep: str = "") -> str:
    """`printable`, and no formula: behind an apostrophe a spreadsheet program shows text (OWASP, CSV injection)."""
    shown = printable(text, keep)
    return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown


def acts(character: str) -> bool:
    """Whether a character does something else than be seen: it moves, hides or reorders text, or is half of one."""
    return unicodedata.category(character) in _ACTING and character not in _JOINERS


def escape(character: str) -> str:
    """The character as a Python escape, `\\x1b`."""
    return character.encode("unicode_escape").decode("ascii")


def shorten(text: str, max_characters: int) -> str:
    """Leave out the middle of a long text, and say how much."""
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]} […{len(text) - 2 * half:,} characters not shown…] {text[len(text) - half :]}"
