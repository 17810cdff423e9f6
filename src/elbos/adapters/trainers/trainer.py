"""Descriptions of trainers: how settings define a training loss, and settings for translation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata

from elbos.adapters.trainers.settings import Settings
from elbos.audit import Audit, DeclaredLoss, LossTable, from_loss, from_table
from elbos.audit import diagnostics as kinds
from elbos.audit.diagnostics import SettingDiagnostic

Loss = DeclaredLoss | LossTable
Values = Mapping[str, str | float | bool]


@dataclass(frozen=True, kw_only=True)
class Option:
    """Trainer settings that contain free parameters to be fitted.

    Attributes:
        settings: Names and fixed values.
        free: Names of free parameters, each with start value, lower and upper bound.
    """

    settings: Values = field(default_factory=dict)
    free: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Supported trainer whose settings files can be audited.

    Attributes:
        name: The trainer's name on the command line.
        version: The version of the trainer's source code that the adapter reproduces.
        package: Name of the trainer's Python package and its release at that version, which the
            installed release is compared with; None for a trainer that is run from its folder.
        read: Function from settings to the training loss, exact except for `findings`.
        options: Families of settings to choose from in a translation.
        is_flags: Whether settings are command-line flags instead of keys of a file.
        loss_types: Choices of the setting `loss_type`, with the squared error first.
        findings: Settings with effects that no weighting describes, by the type of diagnostic.
        neutral: Settings that change the loss in ways which this library does not compute, each
            with the value for which the loss is unchanged; other values raise a ValueError.
    """

    name: str
    version: str
    package: tuple[str, str] | None = None
    read: Callable[[Settings], Loss]
    options: tuple[Option, ...] = ()
    is_flags: bool = True
    loss_types: tuple[str, ...] = ()
    findings: Mapping[type[SettingDiagnostic], Sequence[str]] = field(default_factory=dict)
    neutral: Mapping[str, float] = field(default_factory=dict)

    def loss(self, settings: Settings) -> Loss:
        """Return the training loss that a trainer's settings define.

        A ValueError is raised for invalid settings.
        """
        found = settings.findings(self.findings)
        if self.loss_types:
            kind = settings.one_of("loss_type", self.loss_types[0], self.loss_types)
            if kind != self.loss_types[0]:
                found = (kinds.DeclaredNotSquared(f"loss_type {kind}"), *found)
        settings.require_default(self.neutral)
        settings.diagnostics.clear()
        loss = self.read(settings)
        if self.package and (installed := _installed(self.package[0])) not in ("", self.package[1]):
            installed = f"{self.package[0]} {installed}"
            found += (kinds.OtherVersion(version=self.version, installed=installed),)
        found += (*settings.diagnostics, *loss.diagnostics)
        if names := sorted(settings.unread()):
            found += (kinds.UnreadSettings(names=", ".join(names), trainer=self.name),)
        return replace(loss, diagnostics=found)

    def audit(self, settings: Settings) -> Audit:
        """Audit the training loss that a trainer's settings define."""
        return replace(audit_of(self.loss(settings)), version=self.version)


def audit_of(loss: Loss) -> Audit:
    return from_loss(loss) if isinstance(loss, DeclaredLoss) else from_table(loss)


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
