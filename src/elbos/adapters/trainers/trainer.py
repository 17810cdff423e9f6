"""A trainer: how its settings are read, and which of them another loss can be translated into."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from elbos.adapters.trainers.settings import Settings
from elbos.audit import Audit, DeclaredLoss, LossTable, from_loss, from_table
from elbos.audit.diagnostics import UnreadSettings

Loss = DeclaredLoss | LossTable


@dataclass(frozen=True, kw_only=True)
class Option:
    """Settings of a trainer with parameters that a translation may choose.

    Attributes:
        settings: Names and values as they are.
        free: Names, each with a value to start from, the least and the largest.
    """

    settings: Mapping[str, str | float | bool] = field(default_factory=dict)
    free: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A trainer, as an adapter knows it.

    Attributes:
        name: Its name on the command line.
        version: The version whose source was read.
        read: From settings to the loss that it trains with, exact.
        options: What to choose from when another loss is translated.
        is_flags: Whether its settings are flags of a command; else they are keys of a file.
    """

    name: str
    version: str
    read: Callable[[Settings], Loss]
    options: tuple[Option, ...] = ()
    is_flags: bool = True

    def loss(self, settings: Settings) -> Loss:
        """The loss that these settings train, with a finding that names the settings not read.

        Raises:
            ValueError: If a setting makes no sense, or is nearly the name of one that would.
        """
        loss = self.read(settings)
        names = sorted(settings.unread())
        if not names:
            return loss
        unread = UnreadSettings(names=", ".join(names), trainer=self.name)
        return replace(loss, diagnostics=(*loss.diagnostics, unread))

    def audit(self, settings: Settings) -> Audit:
        """The audit of the loss that these settings train."""
        return audit_of(self.loss(settings))


def audit_of(loss: Loss) -> Audit:
    """The audit of a loss, in formulas or in numbers."""
    return from_loss(loss) if isinstance(loss, DeclaredLoss) else from_table(loss)
