"""Docstrings of public names: each says of every argument what it is, what comes back and what is raised."""
import ast
import builtins
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
import typing
from itertools import chain

import pytest

import starlight_nb
from starlight_nb import barriers, matching, plots
from starlight_nb.matching import sinkhorn
from starlight_nb.training import Recipe

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source")
MAX_LINE_LENGTH = 100
DRAWN = [name for name in plots.__all__ if name.startswith("plot_")] + [
    "LineStyle", "figure_style", "finish_figure", "in_one_column", "pair_counts", "span"]
OFFERED = [getattr(module, name) for module, names in (
    (starlight_nb, starlight_nb.__all__), (matching, matching.__all__), (plots, DRAWN), (sinkhorn, ["sinkhorn"]),
    (barriers, ["Plane", "plane_grid", "plane_losses", "plane_segments"]))
    for name in names]
FUNCTIONS = list(dict.fromkeys(filter(inspect.isfunction, OFFERED)))
CLASSES = list(dict.fromkeys(filter(inspect.isclass, OFFERED)))


def classes_in(annotation):
    "The classes of this package that an annotation is made of."
    if inspect.isclass(annotation) and annotation.__module__.startswith("starlight_nb"): yield annotation
    yield from chain.from_iterable(map(classes_in, typing.get_args(annotation)))


def known_to_users():
    "The public classes, and those that public functions of the library take and return."
    hints = [typing.get_type_hints(one) for one in FUNCTIONS if not one.__module__.startswith("starlight_nb.plots")]
    return list(dict.fromkeys([*CLASSES, *chain.from_iterable(
        classes_in(annotation) for own in hints for annotation in own.values())]))


def methods(cls):
    "The public methods that a class has from its module, where they have a docstring of their own."
    bases = [base for base in cls.__mro__ if base.__module__ == cls.__module__]
    plain = [(name, getattr(own, "__func__", own)) for base in bases for name, own in vars(base).items()]
    return [own for name, own in plain if inspect.isfunction(own) and own.__doc__ and not name.startswith("_")
            and own.__qualname__.endswith(f".{name}")]  # the default of a field may be a function


def parameters(function):
    "The names of the parameters as a docstring has them, without `self`."
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [marks.get(one.kind, "") + name for name, one in inspect.signature(function).parameters.items()
            if name not in ("self", "cls")]


def sections(thing):
    "The items of each section of a docstring, {section: {name: text}}, in their order."
    found, own = {}, None
    for line in inspect.cleandoc(thing.__doc__).splitlines():
        if line.removesuffix(":") in SECTIONS and line.endswith(":"): own = found.setdefault(line[:-1], {})
        elif line and not line.startswith(" "): own = None
        elif own is not None and re.match(r"    \S", line):
            name, mark, text = line.strip().partition(": ")
            own[name] = text if mark else name
        elif own is not None and line.strip(): own[list(own)[-1]] += line.strip()
    return found


def source_of(function):
    return textwrap.dedent(inspect.getsource(function))


def check_text(thing):
    "A summary of one line, and lines that fit a narrow window."
    lines = thing.__doc__.splitlines()
    assert lines[0].strip().endswith(".") and (len(lines) == 1 or not lines[1].strip()), lines[:2]
    assert all(len(line) <= MAX_LINE_LENGTH for line in lines)
    for section, items in sections(thing).items():
        assert items and all(items.values()), f"{section} says nothing of something"


def check_function(function):
    "Arguments and what comes back."
    check_text(function)
    found = sections(function)
    assert list(found.get("Args", [])) == parameters(function)
    tree = ast.parse(source_of(function)).body[0]
    gives = (ast.Return, ast.Yield, ast.YieldFrom)
    returns = any(isinstance(node, gives) and node.value is not None for node in ast.walk(tree))
    abstract = getattr(function, "__isabstractmethod__", False)
    assert abstract or ("Returns" in found or "Yields" in found) == returns


def check_raises(function):
    "What `Raises` names are exceptions, and what the function itself raises is among them."
    named = sections(function).get("Raises", {})
    known = vars(builtins) | function.__globals__
    assert all(issubclass(known[name], Exception) for name in named)
    raised = [node.exc for node in ast.walk(ast.parse(source_of(function))) if isinstance(node, ast.Raise)]
    assert {one.func.id for one in raised if isinstance(one, ast.Call)} <= named.keys()


def test_there_is_something_to_check():
    assert len(FUNCTIONS) > 50 and {Recipe, starlight_nb.Dataset} < set(CLASSES) < set(known_to_users())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_function_says_what_it_takes_and_returns(function):
    check_function(function)
    check_raises(function)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_signature_is_not_explained_twice(function):
    "What an argument means stands in the docstring, and no default looks like a setting of a training."
    source = source_of(function)
    first = ast.parse(source).body[0].body[0]
    comments = [token.string for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT and token.start[0] < first.lineno]
    assert not comments
    assert not any(isinstance(one.default, Recipe) for one in inspect.signature(function).parameters.values())


@pytest.mark.parametrize("cls", known_to_users(), ids=lambda cls: cls.__name__)
def test_methods_with_arguments_say_what_they_take(cls):
    for method in methods(cls):
        check_text(method)
        if parameters(method):
            check_function(method)
            check_raises(method)


@pytest.mark.parametrize("cls", known_to_users(), ids=lambda cls: cls.__name__)
def test_a_class_says_what_it_holds(cls):
    check_text(cls)
    found = sections(cls)
    if dataclasses.is_dataclass(cls):
        assert list(found.get("Attributes", [])) == [field.name for field in dataclasses.fields(cls)]
    elif cls.__init__ is not object.__init__ or "__new__" in vars(cls):
        assert list(found.get("Args", [])) == parameters(cls)


@pytest.mark.parametrize("wrong", ["\"Do it.\"", "\"\"\"Do it.\n\n    Args:\n        y: a number.\n    \"\"\"",
                                   "\"\"\"Do it\n    again.\n\n    Args:\n        x: a number.\n    \"\"\""])
def test_a_wrong_docstring_is_noticed(wrong, tmp_path, monkeypatch):
    (tmp_path / "wrongly_documented.py").write_text(f"def f(x):\n    {wrong}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "wrongly_documented", raising=False)
    from wrongly_documented import f
    with pytest.raises(AssertionError): check_function(f)
