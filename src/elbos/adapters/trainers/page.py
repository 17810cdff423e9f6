"""Text output of a translation into the settings of another trainer."""

from elbos.adapters.trainers import Translation
from elbos.audit.words import in_words
from elbos.base.html import render


def translation_text(title: str, translation: Translation) -> str:
    """Return the text for a translation: the distance between the weightings, and the settings to
    paste.
    """
    off = in_words(translation.distance)
    said = render(
        "adapters/trainers/translation.txt", title=title, translation=translation, off=off
    )
    indented = (translation.text or "(its defaults)").replace("\n", "\n  ")
    return f"{' '.join(said.split())}\n\n  {indented}\n"
