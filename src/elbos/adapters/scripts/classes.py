"""Rewriting of classes that contain a loss as functions, in the syntax tree of a script.

    class Trainer:                          def Trainer(model, num=1000):
        def __init__(self, model, num=1000):    self.model = model
            self.model = model                  self.num = num
            self.num = num           becomes    def self.times(n):
        def times(self, n):                         return torch.rand(n) * self.num
            return torch.rand(n) * self.num     def self.train():
        def train(self):                            ...
            ...

where `self.model` is the name of a variable, which a syntax tree allows. The analysis of functions
and their enclosing variables then applies to methods and attributes.
"""

import ast

BACKWARD_METHODS = ("backward", "manual_backward")
LOSS_METHODS = ("training_step", "compute_loss")  # return the loss, in Lightning and transformers


def flattened(tree: ast.Module) -> ast.Module:
    """Rewrite classes of a script as plain functions.

    Only classes that have a loss method are rewritten.
    """
    body = [
        _function(one) if isinstance(one, ast.ClassDef) and _has_loss(one) else one
        for one in tree.body
    ]
    return ast.Module(body, tree.type_ignores)


def _has_loss(statement: ast.ClassDef) -> bool:
    methods = [one for one in statement.body if isinstance(one, ast.FunctionDef)]
    calls = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
    called = [func.attr for func in calls if isinstance(func, ast.Attribute)]
    names = {*called, *(method.name for method in methods)}
    return not names.isdisjoint({*BACKWARD_METHODS, *LOSS_METHODS})


def _function(statement: ast.ClassDef) -> ast.FunctionDef:
    constructor = ast.parse("def __init__(self): pass").body[0]
    fields, methods = list[ast.stmt](), list[ast.stmt]()
    for one in statement.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__":
            constructor = one
        elif isinstance(one, ast.FunctionDef):
            methods.append(_without_self(one))
        elif isinstance(one, ast.AnnAssign | ast.Assign):
            for target in one.targets if isinstance(one, ast.Assign) else [one.target]:
                if isinstance(target, ast.Name):
                    target.id = f"self.{target.id}"
            fields.append(one)
    assert isinstance(constructor, ast.FunctionDef)
    result = _without_self(constructor)
    result.name, result.body = statement.name, [*fields, *result.body, *methods]
    return ast.fix_missing_locations(ast.copy_location(result, statement))


def _without_self(method: ast.FunctionDef) -> ast.FunctionDef:
    method.name = f"self.{method.name}"
    method.decorator_list = [d for d in method.decorator_list if not isinstance(d, ast.Name)]
    if method.args.args and method.args.args[0].arg == "self":
        method.args.args.pop(0)
    flattened_method: ast.FunctionDef = _Flattened().visit(method)
    return flattened_method


class _Flattened(ast.NodeTransformer):
    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return ast.copy_location(ast.Name(f"self.{node.attr}", node.ctx), node)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        self.generic_visit(node)
        match node.value:
            case ast.Call(ast.Name("self.register_buffer"), [ast.Constant(str(name)), value, *_]):
                target = ast.Name(f"self.{name}", ast.Store())
                return ast.copy_location(ast.Assign([target], value), node)
        return node
