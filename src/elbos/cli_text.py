"""The words of the command line, out of tyro's: formulas made readable, errors made one line."""

import re
from collections.abc import Callable

_GREEK = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "epsilon": "ε",
    "eta": "η",
    "lambda": "λ",
    "mu": "μ",
    "pi": "π",
    "rho": "ρ",
    "sigma": "σ",
    "tau": "τ",
    "Phi": "Φ",
    "infty": "∞",
    "le": "≤",
    "ge": "≥",
    "in": "∈",
    "sim": "~",
    "times": "x",
    "mid": "|",
    "to": "→",
}
_LATEX: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\\(?:mathrm|text)\{([^}]*)\}", r"\1"),
    (r"\\(?:mathcal|mathbb) ?(\w)", r"\1"),
    (r"\\tilde\\sigma", "σ_VE"),
    (r"\\(?:hat|tilde|bar) ?", ""),
    (r"\\sqrt\{([^}]*)\}", r"√(\1)"),
    (r"\\tfrac12", "½"),
    (r"\\(?:frac|tfrac)\{([^}]*)\}\{([^}]*)\}", r"(\1)/(\2)"),
    (r"\\(?:left|right|,|;|!|q?quad)", " "),
    (r"\\([A-Za-z]+)", lambda match: _GREEK.get(match[1], match[1])),
    (r"\$+|[{}]", ""),
]


def readable(text: str) -> str:
    r"""Help without LaTeX.

    Examples:
        >>> readable(r"$\lambda_\min$, the noisy end.")
        'λ_min, the noisy end.'
    """
    for pattern, replacement in _LATEX:
        text = re.sub(pattern, replacement, text)
    return text


def one_line(message: str) -> str:
    """What an error message of tyro's says, and the choices that there were.

    Examples:
        >>> rule = 20 * "-"
        >>> one_line(f"Error {rule} No such option: --x {rule} For full helptext, see --help")
        'No such option: --x'
    """
    flat = " ".join(message.split())
    _title, text, *others = (part.strip() for part in re.split(r"-{10,}", flat))
    choices = next((o for o in others if o.startswith("Available subcommands: ")), None)
    if choices is None or "--" in text:
        return text
    names = choices.removeprefix("Available subcommands: ").split(", ")
    group = text.split()[-1].partition(":")[0] + ":"
    fitting = [name for name in names if name.startswith(group)]
    return f"{text}; choose from {', '.join(fitting or names)}"
