"""Completion of verbs, presets, types and the most used options, for bash, zsh and tcsh.

The words are those of the short help texts, `elbos VERB -h`.
"""

import re
from collections.abc import Iterable, Mapping

_BASH = """\
_elbos() {{
    local line=${{COMP_LINE:0:COMP_POINT}} words
    local current=${{line##* }}
    if [ "$COMP_CWORD" -eq 1 ]; then words="{verbs}"; else
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [[ $current == *:* ]]; then  # bash completes what follows the colon
        COMPREPLY=("${{COMPREPLY[@]#"${{current%:*}}:"}}")
    fi
}}
complete -o default -F _elbos elbos"""
_ZSH = """\
#compdef elbos
_elbos() {{
    if (( CURRENT == 2 )); then compadd -- {verbs}; return; fi
    case $words[2] in
{cases}
    esac
    _files
}}
compdef _elbos elbos"""
_TCSH = "complete elbos 'p/1/({verbs})/' 'c/--/({options})/' 'n/*/f/'"
SHELLS = ("bash", "zsh", "tcsh")


def completion(shell: str, texts: Mapping[str, str], presets: Iterable[str]) -> str:
    """Return the shell script that completes commands and options of `elbos`.

    Args:
        shell: Name of the shell, one of `SHELLS`.
        texts: The short help of each verb.
        presets: Names of the presets, which `train` and `compare` take.
    """
    words = {verb: list(dict.fromkeys(_words(text))) for verb, text in texts.items()}
    for verb in ("train", "compare"):
        words[verb] = [*presets, *words[verb]]
    verbs = " ".join(words)
    if shell == "tcsh":
        long = {word[2:] for found in words.values() for word in found if word.startswith("--")}
        return _TCSH.format(verbs=verbs, options=" ".join(sorted(long)))
    form, template = ("words={}", _BASH) if shell == "bash" else ("compadd -- {}", _ZSH)
    quote = '"{}"' if shell == "bash" else "{}"
    cases = (
        f"        {verb}) {form.format(quote.format(' '.join(found)))} ;;"
        for verb, found in words.items()
    )
    return template.format(verbs=verbs, cases="\n".join(cases))


def _words(text: str) -> Iterable[str]:
    r"""List the option names and type choices in a help text.

    Examples:
        >>> list(_words("  --run PATH   the run\n  network:TYPE  unet, own, ...\n"))
        ['--run', 'network:unet', 'network:own']
    """
    yield from re.findall(r"^ +(--\w[\w.-]*)", text, re.MULTILINE)
    for part, types in re.findall(r"^ +([\w.]+):TYPE +(.*)$", text, re.MULTILINE):
        names = re.sub(r"^.*: ", "", types).split(", ")
        yield from (f"{part}:{name}" for name in names if re.fullmatch(r"[\w-]+", name))
