"""Nothing that is read is ever executed: no pickle, no code of a model's authors."""

import ast
from pathlib import Path

import hpo

TREES = {
    str(path): ast.parse(path.read_text())
    for path in sorted(Path(hpo.__file__).parent.rglob("*.py"))
}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNPICKLERS = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load")}
CODE_ARGUMENTS = {"trust_remote_code": False, "weights_only": True, "allow_pickle": False}


def problems(tree):
    """What in a module could execute what it reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (a.name for a in names if a.name.partition(".")[0] in PICKLES)
            case ast.ImportFrom(module=str(module), names=names):
                if module.partition(".")[0] in PICKLES:
                    yield module
                yield from (f"{module}.{a.name}" for a in names if (module, a.name) in UNPICKLERS)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                if (name, attribute) in UNPICKLERS:
                    yield f"{name}.{attribute}"
            case ast.keyword(arg=argument, value=value) if argument in CODE_ARGUMENTS:
                if getattr(value, "value", None) is not CODE_ARGUMENTS[argument]:
                    yield argument
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                yield name


def test_nothing_that_is_read_is_executed():
    assert len(TREES) > 60
    assert {path: found for path, tree in TREES.items() if (found := list(problems(tree)))} == {}


def test_the_walk_sees_each_of_them():
    for code in (
        "import pickle",
        "def f():\n    from pickle import loads",
        "import joblib.numpy_pickle",
        "torch.load(path)",
        "from torch import load",
        "load(path, trust_remote_code=True)",
        "load(path, trust_remote_code=flag)",
        "numpy.load(path, mmap_mode='r')",
        "f(weights_only=False)",
        "eval(text)",
    ):
        assert list(problems(ast.parse(code))), code
    assert not list(problems(ast.parse("model.eval(); f(trust_remote_code=False)")))
