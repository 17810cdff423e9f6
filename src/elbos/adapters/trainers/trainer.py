"""Trainers: how settings define a training loss, and which of them no weighting describes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata

from elbos.adapters.trainers.settings import Settings
from elbos.audit import Audit, DeclaredLoss, LossTable, from_loss, from_table
from elbos.audit import diagnostics as kinds
from elbos.audit.diagnostics import SettingDiagnostic

Loss = DeclaredLoss | LossTable


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Supported trainer whose settings files can be audited."""

    name: str  # as written on the command line
    version: str  # version of the trainer's code that the adapter reproduces
    # the Python package and its release at that version; None if it is run from its folder
    package: tuple[str, str] | None = None
    read: Callable[[Settings], Loss]  # exact except for `findings`
    loss_types: tuple[str, ...] = ()  # choices of the setting `loss_type`, the squared error first
    # settings with effects that no weighting describes, by the type of diagnostic
    findings: Mapping[type[SettingDiagnostic], Sequence[str]] = field(default_factory=dict)
    # settings whose effect is not computed here, with the only value that is accepted
    neutral: Mapping[str, float] = field(default_factory=dict)

    def loss(self, settings: Settings) -> Loss:
        """Return the training loss that valid settings of the trainer define."""
        diagnostics = list(settings.findings(self.findings))
        if self.loss_types:
            kind = settings.one_of("loss_type", self.loss_types[0], self.loss_types)
            if kind != self.loss_types[0]:
                diagnostics.insert(0, kinds.DeclaredNotSquared(f"loss_type {kind}"))
        settings.require_default(self.neutral)
        settings.diagnostics.clear()
        loss = self.read(settings)
        if self.package:
            name, version = self.package
            try:
                installed = metadata.version(name)
            except metadata.PackageNotFoundError:
                installed = version
            if installed != version:
                installed = f"{name} {installed}"
                diagnostics.append(kinds.OtherVersion(version=self.version, installed=installed))
        diagnostics += [*settings.diagnostics, *loss.diagnostics]
        if names := sorted(settings.unread()):
            diagnostics.append(kinds.UnreadSettings(names=", ".join(names), trainer=self.name))
        return replace(loss, diagnostics=tuple(diagnostics))

    def audit(self, settings: Settings) -> Audit:
        """Audit the training loss that a trainer's settings define."""
        loss = self.loss(settings)
        audit = from_loss(loss) if isinstance(loss, DeclaredLoss) else from_table(loss)
        return replace(audit, version=self.version)
