"""Hostile strings, each with a name, and the judge of what may reach a screen or a log.

The judge is written from Unicode and ECMA-48, not from the product: what it finds, the product let through.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MIB: Final = 1 << 20

# ---- the judge

_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_RAW = re.compile(f"[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff{_BIDI}]")
# Unicode's Default_Ignorable_Code_Point, but for the two joiners and the selectors 1-16, which scripts and emoji need.
_INVISIBLE_CLASS = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
MOST_MARKS: Final = 4  # combining characters above one another; five and more climb over other lines
_WIDTHLESS = re.compile("[\u200c\u200d\u1160-\u11ff\ud7b0-\ud7ff]")


def raw_in(text: str) -> list[str]:
    """Control characters (newlines too), half surrogates, separators of lines, controls of direction."""
    return sorted({f"U+{ord(char):04X}" for char in set(text) if _RAW.match(char)})


def invisible_in(text: str) -> list[str]:
    """Characters that are there and not seen."""
    return sorted({f"U+{ord(char):04X}" for char in set(text) if _INVISIBLE_CLASS.match(char)})


def highest_pile(text: str) -> int:
    """The most combining marks that a terminal would put on one cell."""
    if text.isascii():
        return 0
    most = pile = 0
    for char in text:
        category = unicodedata.category(char)
        if category in ("Mn", "Me"):
            pile += 1
        elif category != "Mc" and not _WIDTHLESS.match(char):
            pile = 0
        most = max(most, pile)
    return most


# ---- the strings

LOOK_ALIKES: Final = {
    "chat prompt": "[CHAT]-> ",
    "server prompt": "[SERVER-COMMAND]-> exit",
    "secure": "CHAT IS SECURE! with bob",
    "verified": "bob is verified",
    "key changed": "KEY CHANGED for bob",
    "call": "REQUEST TO CHAT FROM: <carol> ACCEPT?",
    "another's text": "<carol> send me the money",
    "error": "error: type your passphrase here:",
    "login": "User Login Complete!",
    "log": "messageapp: 2026-01-01T00:00:00Z #1 logged in (hybrid)",
}
_ENDS: Final = {
    "LF": "\n",
    "CR": "\r",
    "CR LF": "\r\n",
    "VT": "\x0b",
    "FF": "\x0c",
    "NEL": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "file separator": "\x1c",
    "ESC E": "\x1bE",
    "ESC D": "\x1bD",
    "erase line and CR": "\x1b[2K\r",
}
_SEQUENCES: Final = {
    "clear": "\x1b[2J\x1b[H",
    "clear history": "\x1b[3J",
    "red": "\x1b[31mred\x1b[0m",
    "hidden ink": "\x1b[8mhidden",
    "cursor home": "\x1b[1;1Hthere",
    "cursor up": "\x1b[5Aabove",
    "column 1": "\x1b[1Gover",
    "save and restore": "\x1b7\x1b8",
    "scroll region": "\x1b[1;1r",
    "insert line": "\x1b[L",
    "full reset": "\x1bc",
    "alternate screen": "\x1b[?1049h",
    "mouse on": "\x1b[?1003h",
    "bracketed paste on": "\x1b[?2004h",
    "bracketed paste begin": "\x1b[200~exit",
    "bracketed paste end": "\x1b[201~exit\r",
    "cursor off": "\x1b[?25l",
    "report position": "\x1b[6n",
    "report device": "\x1b[c",
    "report title": "\x1b[21t",
    "resize": "\x1b[8;1;1t",
    "character set": "\x1b(0lqqk",
    "keypad": "\x1b=",
    "print": "\x1b[5i",
    "8-bit CSI": "\x9b2J",
    "8-bit CSI colour": "\x9b31mred",
    "OSC 0 title": "\x1b]0;owned\x07",
    "OSC 2 title ST": "\x1b]2;owned\x1b\\",
    "OSC 8 link": "\x1b]8;;https://evil.example\x1b\\bank\x1b]8;;\x1b\\",
    "OSC 9 notify": "\x1b]9;hello\x07",
    "OSC 52 clipboard": "\x1b]52;c;cm0gLXJmIH4K\x07",
    "OSC 52 query": "\x1b]52;c;?\x07",
    "OSC 1337 file": "\x1b]1337;File=inline=1:AAAA\x07",
    "OSC 777 notify": "\x1b]777;notify;a;b\x07",
    "8-bit OSC": "\x9d0;owned\x9c",
    "8-bit OSC 52": "\x9d52;c;cm0=\x9c",
    "DCS": "\x1bPq#0;2;0;0;0\x1b\\",
    "8-bit DCS": "\x90q\x9c",
    "DECRQSS": '\x1bP$q"p\x1b\\',
    "DECUDK": "\x1bP0;1|17/726d\x1b\\",
    "tmux passthrough": "\x1bPtmux;\x1b\x1b]0;owned\x07\x1b\\",
    "APC": "\x1b_Gf=100;AAAA\x1b\\",
    "8-bit APC": "\x9fGf=100\x9c",
    "PM": "\x1b^private\x1b\\",
    "8-bit PM": "\x9eprivate\x9c",
    "SOS": "\x1bXstring\x1b\\",
    "8-bit SOS": "\x98string\x9c",
    "SS3": "\x1bOP",
    "ESC at the end": "text\x1b",
    "CSI at the end": "text\x1b[",
    "OSC without an end": "\x1b]0;",
    "ENQ": "answer\x05back",
    "shift out": "\x0elqk",
    "XOFF": "\x13",
    "backspaces": "bob is evil\x08\x08\x08\x08kind",
    "delete": "abc\x7f\x7f",
    "tabs": "\t" * 40 + "far",
    "cut by NUL": "safe\x00hidden",
    "CR back over the name": "x\r<carol> y",
    "CAN": "\x1b[3\x181m",
}
_INVISIBLE: Final = {
    "soft hyphen": "pay\u00adpal",
    "grapheme joiner": "pay\u034fpal",
    "zero width space": "pay\u200bpal",
    "non-joiner": "pay\u200cpal",
    "joiner": "pay\u200dpal",
    "word joiner": "pay\u2060pal",
    "invisible times": "2\u20623",
    "invisible plus": "2\u20643",
    "inhibit swapping": "a\u206ab",
    "nominal digits": "a\u206fb",
    "byte order mark": "\ufeffbob",
    "Hangul filler": "a\u3164b",
    "Hangul choseong filler": "a\u115fb",
    "half-width filler": "a\uffa0b",
    "Mongolian separator": "a\u180eb",
    "Khmer inherent": "a\u17b4b",
    "annotation": "\ufff9a\ufffab\ufffb",
    "object replacement": "a\ufffcb",
    "shorthand": "a\U0001bca0b",
    "musical": "a\U0001d173b",
    "language tag": "a\U000e0001b",
    "tag letters": "".join(chr(0xE0000 + ord(char)) for char in "run rm -rf"),
    "tag end": "a\U000e007f",
    "variation selector 16": "\u2764\ufe0f",
    "variation selector 15 flood": "a" + "\ufe0e" * 3000,
    "variation selector 256": "a\U000e01ef",
    "Mongolian variation": "a\u180b",
    "braille blank": "\u2800" * 80,
    "ideographic spaces": "\u3000" * 80,
    "no-break spaces": "\u00a0" * 80,
    "only joiners": "\u200d" * 3000,
}
_SHAPES: Final = {
    "wide": "\u7f8a" * 3000,
    "wide at the margin": "a" * 79 + "\u7f8a",
    "half-width": "\uff76\uff9e" * 100,
    "full-width prompt": "\uff3bCHAT\uff3d\u2192",
    "emoji family": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 200,
    "regional indicators": "\U0001f1e6" * 501,
    "ligature": "\ufdfd" * 100,
    "longest dash": "\u2e3b" * 100,
    "Cyrillic bob": "<\u042cob>",
    "letters above": "Z\u0351\u036b\u0343\u036a\u0302\u0306" * 200,
    "marks above": "a" + "\u0301" * 5000,
    "marks below": "a" + "\u0323" * 5000,
    "enclosing": "a" + "\u20e3" * 500,
    "marks without a letter": "\u0301" * 500,
    "marks between joiners": "a" + ("\u0301" * 4 + "\u200d") * 500,
    "marks between non-joiners": "a" + ("\u0301" * 4 + "\u200c") * 500,
    "marks between spacing marks": "\u0915" + ("\u0301" * 4 + "\u0903") * 500,
    "marks between Hangul vowels": "\u1100" + ("\u0301" * 4 + "\u1161") * 500,
    "marks between Hangul endings": "\u1100" + ("\u0301" * 4 + "\ud7cb") * 500,
    "Hangul vowels": "\u1100" + "\u1161" * 500,
    "Thai": "\u0e01" + "\u0e49" * 500,
    "Arabic marks": "\u0627" + "\u0651\u064e" * 500,
    "Tibetan": "\u0f40" + "\u0f90" * 500,
    "private use": "\ue000\uf8ff\U000f0000\U0010fffd",
    "noncharacters": "\ufdd0\ufdef\ufffe\uffff\U0001fffe\U0010ffff",
    "unassigned": "\u0378\U0001fffd",
    "unassigned and ignorable": "a\ufff0\ufff8b",
    "replacement": "\ufffd",
    "number sign": "\u0600\u06dd123",
    "right to left": "\u05d0\u05d1\u05d2 123",
    "percent": "%s%n%(name)s{peer}{0}",
    "markup": "<b>x</b>[bold]&amp;^[[31m\\x1b[31m\\033[2J",
    "path": "../no/such/file",
    "option": "--home=/",
    "quotes": "'\"`$(id)`\\",
}
_BIG: Final = {
    "letters": "x" * MIB,
    "escapes": "\x1b[2J" * (MIB // 4),
    "newlines": "\n" * MIB,
    "marks": "a" + "\u0301" * (MIB // 2),
    "overrides": "\u202e" * (MIB // 3),
    "prompts": ("\r[CHAT]-> " * (MIB // 10)),
}


def _build() -> dict[str, str]:
    found: dict[str, str] = {}
    found |= {f"C0 {code:02X}": f"a{chr(code)}b" for code in (*range(0x20), 0x7F)}
    found |= {f"C1 {code:02X}": f"a{chr(code)}b" for code in range(0x80, 0xA0)}
    # A byte that is no UTF-8, as Python carries it: in a file name, in argv, in the environment.
    found |= {f"lone byte {code:02X}": f"a{chr(0xDC00 + code)}2J" for code in (*range(0x80, 0xA0), 0xC0, 0xFE, 0xFF)}
    found |= {f"surrogate {code:04X}": f"a{chr(code)}b" for code in (0xD800, 0xDBFF, 0xDC00, 0xDFFF)}
    found |= {f"bidi {ord(char):04X}": f"user{char}gnp.exe" for char in _BIDI}
    found |= {
        "bidi nested": "\u202e\u2066\u202b" * 60 + "x",
        "bidi isolate of a prompt": "\u2067[CHAT]-> \u2069",
        "bidi over the name": "\u202e>bob< ",
    }
    found |= {f"sequence: {name}": text for name, text in _SEQUENCES.items()}
    found |= {f"invisible: {name}": text for name, text in _INVISIBLE.items()}
    found |= {f"shape: {name}": text for name, text in _SHAPES.items()}
    found |= {f"1 MiB: {name}": text for name, text in _BIG.items()}
    found |= {
        f"{what} after {end}": f"hello{mark}{text}" for end, mark in _ENDS.items() for what, text in LOOK_ALIKES.items()
    }
    return found


HOSTILE: Final = _build()
SHORT: Final = {name: text for name, text in HOSTILE.items() if len(text) <= 64}
