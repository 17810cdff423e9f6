"""Export of averaged weights and a model card to a folder for `from_pretrained` or `elbos.Run`."""

from elbos.runs.export.folder import export

__all__ = ["export"]
