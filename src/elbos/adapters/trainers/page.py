"""Text of a translation into the settings of another trainer."""

from elbos.adapters.trainers import Translation
from elbos.audit.words import in_words
from elbos.base.html import render


def translation_text(title: str, translation: Translation) -> str:
    """Return a translation as text: its distance, and the settings, to be pasted."""
    off = in_words(translation.distance)
    said = render(
        "adapters/trainers/translation.txt", title=title, translation=translation, off=off
    )
    indented = (translation.text or "(its defaults)").replace("\n", "\n  ")
    return f"{' '.join(said.split())}\n\n  {indented}\n"
