"""The one door for words a person reads: ``tr`` gives them in the language chosen.

Catalogues are gettext's (``resources/locale/LANGUAGE/LC_MESSAGES/volley.mo``); the source is plain English. What is an
identifier, a code, a number or what an engine or a broker said does not come through here. ``PSEUDO`` is no language:
it makes every text 40 % longer and marks its ends, so that what would be clipped or was forgotten is seen.
"""

from __future__ import annotations

import gettext
from pathlib import Path
from typing import Final

PSEUDO: Final = "pseudo"
_LOCALES = Path(__file__).resolve().parent.parent / "resources" / "locale"
_ACCENTS = str.maketrans("aeiounAEIOUN", "áéíóúñÁÉÍÓÚÑ")


class _Language:
    def __init__(self) -> None:
        self.name = "en"
        self.catalogue: gettext.NullTranslations = gettext.NullTranslations()


_now = _Language()


def languages() -> list[str]:
    """Return the languages there are catalogues for; English always."""
    found = {path.parent.parent.name for path in _LOCALES.glob("*/LC_MESSAGES/volley.mo")}
    return ["en", *sorted(found - {"en"})]


def use(language: str) -> None:
    """Speak a language from now on; what is already on screen stays until it is built again."""
    _now.name = language
    _now.catalogue = (
        gettext.NullTranslations()
        if language in {"en", PSEUDO}
        else gettext.translation("volley", _LOCALES, [language], fallback=True)
    )


def tr(text: str) -> str:
    """Return a text in the language in force; empty stays empty."""
    if not text or _now.name == "en":
        return text
    return _pseudo(text) if _now.name == PSEUDO else _now.catalogue.gettext(text)


def _pseudo(text: str) -> str:
    if text.startswith("["):
        return text  # has been here
    more = "~" * max(1, round(len(text) * 0.4) - 2)
    return f"[{text.translate(_ACCENTS)}{more}]"
