"""sglang's own functions and classes, taken out of a release's source and made runnable.

A lifted definition is compiled from the release's file, with the file's true name and line numbers. So tracebacks and
debuggers show upstream's lines. Other definitions of the same module are lifted, too, if they are needed. Names from
other modules are passed in, and `Lifted.given` lists them.
"""

from __future__ import annotations
import __future__ as future

import ast
import builtins
import copy
import functools
import symtable
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from repro.lab.refused import Refused
from repro.lab.upstream.source import Source

LAZY_ANNOTATIONS = future.annotations.compiler_flag  # annotations are not evaluated, so their names need not be offered


@dataclass
class Lifted:
    """A module made of lifted definitions. `lines` maps each definition to its line in the release's file. `given`
    lists those of the offered names that the definitions really use."""

    source: Source
    module: ModuleType
    lines: dict[str, int] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        if name in ("module", "source"):  # not set yet, because this object is being copied or unpickled
            raise AttributeError(name)
        return getattr(self.module, name)


def lift(source: Source, names: Iterable[str], offered: Mapping[str, Any], *, variant: str = "") -> Lifted:
    """A new module with the definitions `names` of `source`, and the definitions of the same file that they need.

    A name is a function, a class, or `Class.method`. Methods are put into a class of that name whose base is
    `offered[Class]`. `offered` maps names to objects. A name in `offered` wins over the file's own definition. The
    module is registered in `sys.modules`, so that lifted classes can be pickled. `variant` distinguishes two modules of
    the same file. Raises Refused if the release does not define one of `names`, or if a definition needs a name that is
    neither defined in the file nor offered.
    """
    tree = _parsed(source.text)
    wanted = list(names)
    nodes = [_find(tree, name, source) for name in wanted if "." not in name]
    nodes += _classes_of_methods(tree, [name for name in wanted if "." in name], source)
    nodes, missing = _closure(tree, nodes, set(offered))
    if missing:
        names = ", ".join(sorted(missing))
        raise Refused(f"sglang {source.release}: {source.path.name} needs {names}: not lifted, no stand-in")
    body = sorted(nodes, key=lambda node: node.lineno)
    module = ModuleType(module_name(source, variant))
    used = sorted(set().union(*map(_free_names, body)) & set(offered)) if body else []
    vars(module).update({name: offered[name] for name in used})
    sys.modules[module.__name__] = module
    code = compile(ast.Module(body, []), str(source.path), "exec", flags=LAZY_ANNOTATIONS, dont_inherit=True)
    exec(code, vars(module))
    lines = {label: line for node in body for label, line in _lines(node)}
    return Lifted(source, module, lines, used)


def has(source: Source, name: str) -> bool:
    """Whether the release defines `name`: a function, a class, or `Class.method`."""
    try:
        tree = _parsed(source.text)
        return bool(_find(tree, name, source) if "." not in name else _classes_of_methods(tree, [name], source))
    except Refused:
        return False


def module_name(source: Source, variant: str = "") -> str:
    """The name of the lifted module in `sys.modules`. It is the same in every process."""
    return "_".join(filter(None, ("lifted", source.path.stem, source.release, variant))).replace(".", "_")


@functools.cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _find(tree: ast.Module, name: str, source: Source) -> ast.stmt:
    found = _top_level(tree).get(name)
    if found is None:
        raise Refused(f"sglang {source.release} has no {name} in {source.path.name}")
    return found


def _top_level(tree: ast.Module) -> dict[str, ast.stmt]:
    """Every function, class and plain assignment at the top of the module, by the name that it binds."""
    bound: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound[node.name] = node
        elif isinstance(node, ast.Assign):
            bound |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            bound[node.target.id] = node
    return bound


def _classes_of_methods(tree: ast.Module, names: list[str], source: Source) -> list[ast.stmt]:
    """For each class, one definition that holds only the wanted methods. Its base is the offered class of that name."""
    made = []
    for owner in dict.fromkeys(name.partition(".")[0] for name in names):
        cls = _find(tree, owner, source)
        methods = {node.name: node for node in cls.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        chosen = [name.partition(".")[2] for name in names if name.startswith(f"{owner}.")]
        for method in chosen:
            if method not in methods:
                raise Refused(f"sglang {source.release} has no {owner}.{method} in {source.path.name}")
        base = ast.Name(owner, ast.Load())
        body = [methods[method] for method in chosen]
        made.append(ast.fix_missing_locations(_like(cls, name=owner, bases=[base], body=body)))
    return made


def _like(cls: ast.ClassDef, *, name: str, bases: list[ast.expr], body: list[ast.stmt]) -> ast.ClassDef:
    fields = dict(name=name, bases=bases, keywords=[], body=body, decorator_list=[])
    if "type_params" in cls._fields:  # Python 3.12
        fields["type_params"] = []
    return ast.copy_location(ast.ClassDef(**fields), cls)


def _closure(tree: ast.Module, nodes: list[ast.stmt], offered: set[str]) -> tuple[list[ast.stmt], set[str]]:
    """`nodes` together with the definitions of the module that they need; and the needed names that are neither defined
    in the module nor offered."""
    top, todo, taken, missing = _top_level(tree), list(nodes), list(nodes), set()
    while todo:
        for name in _free_names(todo.pop()) - offered:
            if name not in top:
                missing.add(name)
            elif not any(node is top[name] or getattr(node, "name", None) == name for node in taken):
                taken.append(top[name])
                todo.append(top[name])
    return taken, missing


def _free_names(node: ast.stmt) -> set[str]:
    """The names that `node` reads from its module, without annotations and builtins."""
    code = ast.unparse(_WithoutAnnotations().visit(copy.deepcopy(node)))
    names = set(_globals(symtable.symtable(code, "lifted", "exec")))
    own = {node.name} if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else set()
    return names - own - set(dir(builtins))


def _globals(table: symtable.SymbolTable) -> Iterable[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() if table.get_type() == "module" else symbol.is_global():
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _globals(inner)


class _WithoutAnnotations(ast.NodeTransformer):
    """Removes annotations, because they are not evaluated."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def _visit_function(self, node: Any) -> Any:
        node.returns = None
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def _lines(node: ast.stmt) -> Iterable[tuple[str, int]]:
    if isinstance(node, ast.ClassDef) and node.bases and getattr(node.bases[0], "id", None) == node.name:
        yield from ((f"{node.name}.{method.name}", method.lineno) for method in node.body)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name, node.lineno
    else:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        yield target.id, node.lineno
