"""Command-line arguments of a script, obtained by running only the statements that build the
parser.
"""

import argparse
import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from elbos.adapters.scripts.names import read, simple, stored


class RefusedArgumentsError(ValueError):
    """Error raised when a training script's argument parser rejects the given flags."""


def arguments_of(
    tree: ast.Module, definitions: list[ast.stmt], flags: Sequence[str], path: Path
) -> argparse.Namespace | None:
    """Parse flags with the argument parser of a script.

    None if the script parses no arguments. Required arguments are optional. A RefusedArgumentsError
    says why the parser refuses the flags.
    """
    if not any(is_parsing(tree, one) for one in definitions):
        return None
    parser = _absl_parser(tree) if any(map(_is_absl, definitions)) else _parser(tree, path)
    for action in parser._actions:
        action.required = False
        if not action.option_strings and action.nargs is None:
            action.nargs = "?"
    for group in parser._mutually_exclusive_groups:
        group.required = False

    def refuse(message: str) -> NoReturn:
        raise RefusedArgumentsError(f"{path}: {message}")

    def refuse_help(_: object = None) -> NoReturn:
        refuse(f"run it yourself to see its help, python {path} --help.")

    parser.error = refuse  # type: ignore[method-assign]
    parser.print_help = refuse_help  # type: ignore[method-assign,assignment]
    return parser.parse_args(list(flags))


def is_parsing(tree: ast.Module, statement: ast.stmt) -> bool:
    match getattr(statement, "value", None):
        case ast.Call(ast.Attribute(_, "parse_args" | "parse_known_args")):
            return True
    return _is_absl(statement) or bool(_parsing_functions(tree, statement))


def changed_in_parsing(tree: ast.Module, statement: ast.stmt) -> dict[str, int]:
    """Return the attributes that a script's own parsing function assigns, with the lines."""
    functions = _parsing_functions(tree, statement)
    nodes = [node for function in functions for node in ast.walk(function)]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    return {one.attr: one.lineno for one in attributes if isinstance(one.ctx, ast.Store)}


def _parsing_functions(tree: ast.Module, statement: ast.stmt) -> list[ast.FunctionDef]:
    call = getattr(statement, "value", None)
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return []
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    called = [one for one in functions if one.name == call.func.id]
    return [one for one in called if any(map(_builds_parser, simple(one.body)))]


def _is_absl(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return statement.module == "absl.flags" and any(a.name == "FLAGS" for a in statement.names)
    return ast.unparse(getattr(statement, "value", None) or ast.Constant(0)).endswith("flags.FLAGS")


def _absl_parser(tree: ast.Module) -> argparse.ArgumentParser:
    types = {"integer": int, "float": float, "string": str, "enum": str, "list": str}
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.args):
        kind = ast.unparse(call.func).rpartition("DEFINE_")[2]
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        default = call.args[1] if len(call.args) > 1 else given.get("default", ast.Constant(None))
        name = call.args[0]
        if "DEFINE_" not in ast.unparse(call.func) or not isinstance(name, ast.Constant):
            continue
        flag = f"--{name.value!s}"
        try:
            value = ast.literal_eval(default)
        except ValueError:  # a computed default
            value = None
        if kind in ("bool", "boolean"):
            action = argparse.BooleanOptionalAction
            parser.add_argument(flag, action=action, default=value)
        else:
            parser.add_argument(flag, type=types.get(kind, str), default=value)
    return parser


def _builds_parser(statement: ast.stmt) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(value, ast.Call) and ast.unparse(value.func).endswith("ArgumentParser")


def _parser(tree: ast.Module, path: Path) -> argparse.ArgumentParser:
    scopes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.FunctionDef)]
    bodies = (list(simple(node.body)) for node in scopes)
    body = next(body for body in bodies if any(map(_builds_parser, body)))
    space: dict[str, Any] = {"argparse": argparse, "os": os, "Path": Path, "__file__": str(path)}
    space["ArgumentParser"] = argparse.ArgumentParser
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    names: list[str] = []
    for statement in body:
        value = getattr(statement, "value", None)
        if not isinstance(value, ast.Call):
            continue
        root = ast.unparse(value.func).partition(".")[0]
        is_parsing = isinstance(value.func, ast.Attribute) and value.func.attr.startswith("parse_")
        is_given = any(isinstance(one, ast.Name) and one.id in names for one in value.args)
        if is_parsing or not (_builds_parser(statement) or root in names or is_given):
            continue
        targets = getattr(statement, "targets", [])
        names += [target.id for target in targets if isinstance(target, ast.Name)]
        used = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
        types = [one for one in functions if one.name in used and (is_given or len(one.body) < 20)]
        needed = [one for one in imports if is_given and stored(one) & used]
        known = {*space, *(function.name for function in functions)}
        value.keywords = [k for k in value.keywords if read(k.value) <= known]  # as some choices
        code = ast.Module([*needed, *types, statement], [])
        try:
            exec(compile(code, str(path), "exec", dont_inherit=True), space)  # noqa: S102
        except Exception as error:
            if is_given:  # arguments that another module adds, which may not be installed
                continue
            raise ValueError(
                f"{path}, line {statement.lineno}: {type(error).__name__}: {error}"
            ) from error
    parser: argparse.ArgumentParser = space[names[0]]
    return parser
