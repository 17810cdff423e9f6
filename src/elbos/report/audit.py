r"""An audit on the terminal, as a page and as data: pure functions of the results.

The page is whole in itself, to be attached to an issue; its numbers are in
`<script id="elbos-audit">`, as JSON. On the terminal, what colour shows is shown without it, too:
where $w$ rises with $\lambda$, there is a line of strokes below the curve.
"""

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from markupsafe import Markup
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from elbos import __version__, files
from elbos.arrays import Array
from elbos.audit.matching import SAME, distance, named_weighting
from elbos.audit.result import Audit
from elbos.report.braille import MARGIN, axis, plotted, strokes
from elbos.report.colors import COLORS, DASHES, Swatch
from elbos.report.html import breakable, document, render
from elbos.report.numbers import NONE, fixed, number, percent, signed
from elbos.report.numbers import count as counted
from elbos.report.tables import Cell, Column, Table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

HEADLINES = {
    "yes": ("✓", "Likelihood objective"),
    "no": ("✗", "Not a likelihood objective"),
    "open": ("!", "No weighting describes this loss"),
}
_STYLES = {"yes": "bold cyan", "no": "bold yellow", "open": "bold red"}  # neither yes nor no is bad
_NUM_NEAREST = 5
_NUM_ROWS = 13  # of the table of the curves
_MAX_BESIDE, _MIN_COLUMN = 3, 20  # audits whose facts are side by side; characters for each
_PLOT_WIDTH, _MIN_PLOT_WIDTH = 64, 28
_TARGET = re.compile(r".+(\.py:[\w.]+|\.json)")
_CENTRAL = 0.99  # of the samples: beyond, curves may be orders of magnitude away


def in_words(distance: float) -> str:
    """A distance as a percentage, or, if it is large, as the factor that it is the log of.

    Examples:
        >>> in_words(0.081), in_words(0.87)
        ('8.1%', 'a factor of 2.4')
    """
    if distance < 0.5:
        return percent(distance)
    return f"a factor of {math.exp(distance):.1f}" if distance < 5 else "orders of magnitude"


@dataclass(frozen=True)
class View:
    """An audit beside others.

    Attributes:
        audit: The audit.
        title: Its title, cut to what distinguishes it from the others.
        color: Of its curves.
        code: Of the factor to the nearest likelihood objective, in lines of less than 80 columns.
    """

    audit: Audit
    title: str
    color: str

    @property
    def kind(self) -> Literal["yes", "no", "open"]:
        """Whether the loss is a likelihood objective; "open" if no weighting describes it."""
        if not self.audit.is_weighted_elbo:
            return "open"
        return "yes" if self.audit.is_monotone else "no"

    @property
    def mark(self) -> str:
        return HEADLINES[self.kind][0]

    @property
    def headline(self) -> str:
        return HEADLINES[self.kind][1]

    @property
    def rising(self) -> str:
        """Where the weighting rises."""
        return ", ".join(f"[{fixed(low, 2)}, {fixed(high, 2)}]" for low, high in self.audit.rising)

    @property
    def verdict(self) -> str:
        return verdict(self.audit)

    @property
    def swatch(self) -> Swatch:
        return Swatch(self.color)

    @property
    def code(self) -> str:
        """The code of the factor; all of its long lines are inside brackets."""
        lines = (self.audit.monotone_code or "").splitlines()
        options = {"subsequent_indent": " " * 8, "break_on_hyphens": False}
        return "\n".join("\n".join(textwrap.wrap(line, 76, **options)) for line in lines)  # type: ignore[arg-type]

    @property
    def nearest(self) -> list[tuple[str, str]]:
        """The nearest named weightings, and how far they are off."""
        return [
            (one.name, f"the same ({off})" if i == 0 and one.distance < SAME else f"off by {off}")
            for i, one in enumerate(self.audit.closest[:_NUM_NEAREST])
            for off in [in_words(one.distance)]
        ]

    @property
    def numbers(self) -> Table:
        """The curves at some noise levels."""
        audit, scale = self.audit, 1 + self.audit.negative_mass
        rows = []
        for i in np.linspace(0, len(audit.logsnr) - 1, _NUM_ROWS).round().astype(int).tolist():
            level, error = audit.logsnr[i].item(), 2 * audit.weight_error[i].item()
            rows.append(
                [
                    fixed(level, 2),
                    number(math.exp(-level / 2), 3),
                    number(audit.weight[i].item(), 3) + (f" ± {percent(error)}" if error else ""),
                    number(audit.density[i].item(), 3),
                    signed(audit.mixture_density[i].item() / scale, 3),
                ]
            )
        heads = ("log-SNR", "noise/signal", "w", "p", "mixture")
        return Table([Column(head) for head in heads], rows, audit.title)

    @property
    def central_weights(self) -> Float[Array, " c"]:
        """The weights of the central noise levels, where nearly all of the samples are."""
        below = (self.audit.density.cumsum(0) / self.audit.density.sum()).numpy()
        tail = (1 - _CENTRAL) / 2
        return np.asarray(self.audit.weight.numpy()[(below > tail) & (below < 1 - tail)])


def views(audits: Sequence[Audit]) -> list[View]:
    """The audits beside each other, a colour for each.

    Examples:
        >>> from dataclasses import replace
        >>> from elbos.audit import from_recipe
        >>> titles = ("a/train.py:loss", "a/train.py:old", "a/edm.json", "b/edm.json", "sd3")
        >>> [v.title for v in views([replace(from_recipe("edm"), title=t) for t in titles])]
        ['loss', 'old', 'a/edm.json', 'b/edm.json', 'sd3']
    """
    titles = {audit.title for audit in audits}
    return [
        View(audit, _short(audit.title, titles - {audit.title}), color)
        for audit, color in zip(audits, cycle(COLORS), strict=False)
    ]


def _short(title: str, others: set[str]) -> str:
    """The least part of a path, from its end, that no other ends with."""
    if not (others and _TARGET.fullmatch(title)):
        return title
    parts = re.split(r"(?<=[/:])", title)
    for i in reversed(range(len(parts))):
        part = "".join(parts[i:])
        if not any(other == part or other.endswith((f"/{part}", f":{part}")) for other in others):
            return part
    return title


# --- words ---------------------------------------------------------------------------------------


def verdict(audit: Audit) -> str:
    """What the loss optimizes, and how it comes about, in one paragraph."""
    (view,) = views([audit])
    low, high = audit.central_half
    text = render(
        "audit_verdict.txt",
        audit=audit,
        levels=_levels(audit),
        logsnr=f"{fixed(audit.logsnr[0].item(), 1)} to {fixed(audit.logsnr[-1].item(), 1)}",
        data=_affine(audit),
        rising=view.rising,
        is_same=audit.closest[0].distance < SAME,
        central_half=f"{fixed(low, 1)} to {fixed(high, 1)}",
        noise_over_signal=f"{math.exp(-low / 2):.2g} to {math.exp(-high / 2):.2g}",
        in_words=in_words,
    )
    return " ".join(text.split())


def difference(audit: Audit, other: Audit) -> str:
    """How much two weightings differ, by the distance of `matching`."""
    levels, d = common_levels([audit, other]), None
    if len(levels):
        at = torch.from_numpy(levels)
        log_w, log_v = (one.weighting(at).log().numpy() for one in (audit, other))
        p = sum(np.interp(levels, a.logsnr.numpy(), a.density.numpy()) for a in (audit, other))
        d = distance(log_w, log_v, p / np.sum(p))
    is_same = d is not None and d < SAME
    return render("audit_difference.txt", distance=d, is_same=is_same, in_words=in_words).strip()


def common_levels(audits: Sequence[Audit]) -> Float[Array, " g"]:
    """A grid on the noise levels that all audits have; empty if there are none."""
    low = max(audit.logsnr[0].item() for audit in audits)
    high = min(audit.logsnr[-1].item() for audit in audits)
    return np.linspace(low, high, len(audits[0].logsnr)) if low < high else np.empty(0)


def _levels(audit: Audit) -> str:
    """What the noise levels are drawn from."""
    steps = f"{audit.num_steps or 0:,}"
    table = {
        "declared": f"a table of {steps} steps",
        "measured": f"a table, {steps} different steps seen",
    }[audit.source]
    table = table if audit.num_steps else ""
    own = "" if table else "a distribution that is none of the named schedules"
    return ", ".join(part for part in (audit.schedule or own, table) if part)


def _affine(audit: Audit) -> str:
    """What the data are changed to; empty if they are not."""
    shift = audit.data_scale * audit.data_offset
    text = "x" if audit.data_scale == 1 else f"{audit.data_scale:.4g} x"
    if shift:
        text += f" {'-' if shift < 0 else '+'} {abs(shift):.3g}"
    return "" if text == "x" else text


def _prediction(audit: Audit) -> str:
    if audit.parameterization is None:
        return "none of the usual targets"
    factor = audit.parameterization_factor
    times = "" if factor == 1 else f"{factor:g} × "
    sigma_data = f", sigma_data {audit.sigma_data:g}" if audit.parameterization == "edm" else ""
    return f"{times}{audit.parameterization}{sigma_data}"


def facts(audit: Audit) -> dict[str, str]:
    """What there is to know besides the curves, by name; `NONE` is what goes without saying."""
    (view,) = views([audit])
    is_measured, (start, end) = audit.source == "measured", audit.central_half
    has_share = audit.is_weighted_elbo and not audit.is_monotone
    shares = (audit.share_pure_noise, audit.share_clean)
    pure, clean = (f"{percent(s, 2)} of the samples" if s > 0 else NONE for s in shares)
    return {
        "predicts": _prediction(audit),
        "coefficient": audit.coefficient_name or "none of the usual formulas",
        "process": audit.process or ("none of those known" if is_measured else NONE),
        "noise levels": _levels(audit),
        "log-SNR": f"{fixed(audit.logsnr[0].item(), 2)} to {fixed(audit.logsnr[-1].item(), 2)}",
        "monotone": ("no" if audit.rising else "yes") if audit.is_weighted_elbo else NONE,
        "rises on": view.rising or NONE,
        "negative share": f"{percent(audit.negative_share)} of this range" if has_share else NONE,
        "expected loss": f"central 50% at log-SNR {fixed(start, 1)} to {fixed(end, 1)}",
        "data": _affine(audit) or NONE,
        "pure noise": pure,
        "no noise": clean,
        "diagnostics": ", ".join(one.kind for one in audit.diagnostics) or NONE,
        "source": f"{counted(audit.num_samples)} samples" if is_measured else "declared, exact",
        "nearest": ", ".join(view.nearest[0]) if audit.is_weighted_elbo else NONE,
    }


def facts_table(
    shown: Sequence[View],
    *,
    is_alone: bool,
    heads: Sequence[str] = (),
    has_nearest: bool = True,
) -> Table:
    """The facts of one audit, or of several side by side.

    Args:
        shown: The audits.
        is_alone: Whether one is not to be compared with others: it gets the share that depends on
            the range of noise levels, and its nearest weightings in a table of their own.
        heads: Titles of the columns. Default: none.
        has_nearest: Whether those of several include the nearest named weighting.
    """
    columns = [facts(view.audit) for view in shown]
    hidden = set() if is_alone else {"negative share"}
    hidden |= {"nearest"} if is_alone or not has_nearest else set()
    rows = [
        [Cell(name), *(Cell(column[name]) for column in columns)]
        for name in columns[0]
        if name not in hidden and any(column[name] != NONE for column in columns)
    ]
    titles = heads or [""] * len(shown)
    return Table([Column(title, is_numeric=False) for title in ("", *titles)], rows)


def as_dict(audit: Audit) -> dict[str, Any]:
    """The audit as JSON holds it, with its verdict in words."""
    return {**audit.to_dict(), "verdict": verdict(audit)}


# --- the terminal --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terminal:
    """One audit in full, or several side by side, for whatever width there is."""

    audits: Sequence[Audit]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        shown = views(self.audits)
        yield from _in_full(shown[0]) if len(shown) == 1 else _beside(shown, options.max_width)
        width = min(_PLOT_WIDTH, options.max_width - MARGIN)
        if width >= _MIN_PLOT_WIDTH and not options.ascii_only:
            yield from _plots(shown, width)
        if len(shown) == 1 and shown[0].code:
            yield Text(shown[0].code + "\n", no_wrap=True, overflow="ignore")  # to be copied


def as_text(audits: Sequence[Audit], width: int = 80) -> str:
    """What the terminal shows, without colours."""
    file = io.StringIO()
    Console(file=file, width=width).print(Terminal(audits), crop=False)
    return file.getvalue()


def _heading(view: View) -> Text:
    style = _STYLES[view.kind]
    return Text.assemble(f"{view.audit.title}: ", (f"{view.mark} {view.headline}", style))


def _in_full(view: View) -> Iterator[RenderableType]:
    yield from (_heading(view), Text(), Text(view.verdict))
    yield facts_table([view], is_alone=True).rich()
    of = "" if view.audit.is_weighted_elbo else ", to its squared-error part"
    columns = [Column(f"nearest named weightings{of}"), Column("", is_numeric=False)]
    yield Table(columns, view.nearest).rich()


def _beside(shown: Sequence[View], width: int) -> Iterator[RenderableType]:
    yield from (Group(*map(_heading, shown)), Text())
    if len(shown) == 2:
        yield from (Text(difference(shown[0].audit, shown[1].audit)), Text())
    if len(shown) <= _MAX_BESIDE and (width - 18) // len(shown) - 2 >= _MIN_COLUMN:
        yield facts_table(shown, is_alone=False, heads=[view.title for view in shown]).rich()
    else:
        for view in shown:
            yield facts_table([view], is_alone=False, heads=[view.title]).rich()


def _plots(shown: Sequence[View], width: int) -> Iterator[Text]:
    """Curves on common axes; of several, that of the weights is for the central ones."""
    audits = [view.audit for view in shown]
    levels = np.linspace(
        min(audit.logsnr[0].item() for audit in audits),
        max(audit.logsnr[-1].item() for audit in audits),
        2 * width,
    )
    cells = levels.reshape(-1, 2).mean(1)

    def resampled(audit: Audit, curve: torch.Tensor) -> Array:
        x, y = audit.logsnr.numpy(), curve.numpy()
        return np.asarray(np.interp(levels, x, y, left=np.nan, right=np.nan))

    weights = [resampled(audit, audit.weight.log10()) for audit in audits]
    densities = [resampled(audit, audit.density) for audit in audits]
    scale = weights if len(shown) == 1 else [np.log10(view.central_weights) for view in shown]
    low, high, top = min(map(np.nanmin, scale)), max(map(np.nanmax, scale)), np.nanmax(densities)
    low = min(low, high - 0.3)  # a constant is a line in the middle of nothing much
    ends = f"{10**low:.2g}", f"{10**high:.2g}"
    for view, log_w, p in zip(shown, weights, densities, strict=True):
        inside = [(start <= cells) & (cells <= end) for start, end in view.audit.rising]
        is_rising = np.any(inside, axis=0) if inside else np.zeros(len(cells), dtype=bool)
        of = f" of {view.title}" if len(shown) > 1 else ""
        left, right = f"{fixed(levels[0], 1)} noisy", f"clean {fixed(levels[-1], 1)}"
        lines = [
            Text(f"weighting w{of}, log scale"),
            *plotted(log_w, low, high, 8, labels=ends, is_marked=is_rising),
            strokes(is_rising, "rises", "never rises"),
            Text("density p of the noise levels"),
            *plotted(p, 0, top, 4, labels=("0", f"{top:.2g}")),
            axis(left, "log-SNR", right, width),
            Text(),
        ]
        yield Text("\n").join(lines)


# --- pages ---------------------------------------------------------------------------------------


def figure(audits: Sequence[Audit]) -> "Figure":
    """The weighting, the density and the mixture of ELBOs as a plotly figure."""
    from elbos.report.audit_figure import figure

    return figure(views(audits))


@dataclass(frozen=True)
class _NamedCurve:
    """A nearest named weighting on a page: a hidden curve of the figure, and its check box."""

    name: str
    off: str
    swatch: Swatch
    trace: int


@dataclass(frozen=True)
class _PageView(View):
    curves: Sequence[_NamedCurve] = ()


def page(audits: Sequence[Audit], *, command: str | None = None) -> str:
    """One HTML page that needs nothing else.

    Args:
        audits: One, or several to show side by side.
        command: What to type to get the same again, for the reader.
    """
    shown, fig = views(audits), figure(audits)
    traces = count(len(fig.data))
    named = [_named_curves(view, traces, is_alone=len(shown) == 1) for view in shown]
    fig.add_traces([trace for curves in named for _, trace in curves])
    pairs = [difference(*audits)] if len(audits) == 2 else [""]
    return document(
        "audit.html",
        views=[
            _PageView(view.audit, view.title, view.color, [curve for curve, _ in curves])
            for view, curves in zip(shown, named, strict=True)
        ],
        facts=_page_facts(shown),
        difference=pairs[0],
        figure=fig,
        label="Weighting, density and mixture of ELBOs over log-SNR; numbers are in the table "
        f"below. {' '.join(f'{v.audit.title}: {v.headline}.' for v in shown)}",
        num_samples=list(dict.fromkeys(a.num_samples for a in audits if a.num_samples)),
        content={"elbos": __version__, "command": command, "audits": list(map(as_dict, audits))},
        command=command,
    )


def write_page(audits: Sequence[Audit], path: Path, *, command: str | None = None) -> None:
    """Write `page` to a file, whole or not at all.

    Raises:
        OSError: If that is impossible; it names `path`.
    """
    files.write(path, page(audits, command=command).encode(errors="replace"))


def as_html(audits: Sequence[Audit]) -> str:
    """The headline and the facts, for a notebook."""
    shown = views(audits)
    line = Markup("<p><strong>{}</strong>: {} {}</p>")
    heads = [line.format(view.audit.title, view.mark, view.headline) for view in shown]
    return Markup("").join([*heads, *(table.html() for table in _page_facts(shown))])


def _page_facts(shown: Sequence[View]) -> list[Table]:
    """The facts side by side; each by themselves where they are too narrow so."""
    if len(shown) == 1:
        return [facts_table(shown, is_alone=True)]
    heads = [Markup("{} {}").format(view.swatch.html(), breakable(view.title)) for view in shown]
    num = len(shown) if len(shown) <= _MAX_BESIDE else 1
    return [
        facts_table(shown[i : i + num], is_alone=False, heads=heads[i : i + num], has_nearest=False)
        for i in range(0, len(shown), num)
    ]


def _named_curves(
    view: View, traces: Iterator[int], *, is_alone: bool
) -> list[tuple[_NamedCurve, "Scatter"]]:
    """The nearest named weightings, in colours of their own, or else dashed in the audit's."""
    from elbos.report.audit_figure import named_curve

    colors = COLORS[1:] if is_alone else [view.color]
    styles = zip(view.nearest, cycle(colors), DASHES, strict=False)
    return [
        (
            _NamedCurve(name, off, Swatch(color, dash), next(traces)),
            named_curve(view.audit, name, named_weighting(name), color, dash),
        )
        for (name, off), color, dash in styles
    ]
