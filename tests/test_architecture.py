"""The two wings stay apart, and files and functions stay small and described."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hpo"
TORCH = {"torch", "transformers", "peft"}
OPTUNA = {"optuna", "sqlalchemy"}
WITH_TORCH = (
    "hpo.training",
    "hpo.mini.pretrain",
    "hpo.mini.pretrain_answerer",
    "hpo.mini.pretrain_classifier",
)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports(name):
    """Everything that a module imports, inside functions too, as full names."""
    found = set()
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = ".".join([*above, node.module or ""]).rstrip(".") if node.level else node.module
            full = {alias: f"{start}.{alias.name}" for alias in node.names}
            found |= {full[a] if full[a] in FILES else start for a in node.names}
    return found


def top_level(name):
    return {found.partition(".")[0] for found in imports(name)}


def within(name, *packages):
    return any(name == p or name.startswith(f"{p}.") for p in packages)


def modules(*packages):
    return [name for name in FILES if within(name, *packages)]


def test_the_walk_sees_the_code():
    assert {
        "hpo.run",
        "hpo.search.ledger.ledger",
        "hpo.training.trial.loop",
        "hpo.data.rsicap",
    } <= set(FILES)
    assert "torch" in top_level("hpo.training.trial.loop")
    assert "optuna" in top_level("hpo.search.ledger.ledger")
    assert "hpo.entry" in imports("hpo.run")


def test_torch_stays_in_the_training_wing():
    users = [name for name in FILES if not within(name, *WITH_TORCH) and top_level(name) & TORCH]
    assert users == []


def test_training_and_data_never_import_optuna():
    users = [n for n in modules("hpo.training", "hpo.data", "hpo.mini") if top_level(n) & OPTUNA]
    assert users == []


def test_the_bridge_knows_neither_wing():
    for name in ("hpo.specs", "hpo.protocol"):
        assert not top_level(name) & (TORCH | OPTUNA)
        assert {m for m in imports(name) if within(m, "hpo")} <= {"hpo.specs"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("hpo.search", ("hpo.training", "hpo.mini")),
        ("hpo.training", ("hpo.search", "hpo.screen", "hpo.session", "hpo.entry")),
        ("hpo.data", ("hpo.search", "hpo.training", "hpo.screen")),
        ("hpo.screen", ("hpo.training", "hpo.mini")),
        ("hpo.files", ("hpo.search", "hpo.training")),
    ],
)
def test_the_wings_never_import_each_other(ours, theirs):
    crossing = {(n, m) for n in modules(ours) for m in imports(n) if within(m, *theirs)}
    assert crossing == set()


def test_imports_have_no_cycle():
    graph = {name: {m for m in imports(name) if m in FILES and m != name} for name in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the cycle


def test_pickle_is_imported_nowhere():
    pickles = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
    assert [name for name in FILES if top_level(name) & pickles] == []


def test_files_are_short():
    long = {
        name: n
        for name, p in FILES.items()
        if (n := len(p.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert long == {}


def test_functions_are_short():
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == {}


def public(name, node):
    """(dotted name, node) of a module or class and all that is public in it."""
    yield name, node
    for child in node.body:
        if isinstance(child, (ast.ClassDef, *FUNCTIONS)) and not child.name.startswith("_"):
            if isinstance(child, ast.ClassDef):
                yield from public(f"{name}.{child.name}", child)
            else:
                yield f"{name}.{child.name}", child


def test_all_that_is_public_has_a_docstring():
    found = [item for name, tree in TREES.items() for item in public(name, tree)]
    assert len(found) > 200
    assert [name for name, node in found if not ast.get_docstring(node)] == []


def test_the_driver_starts_without_torch():
    code = (
        "import hpo.entry, hpo.run, hpo.screen.live, hpo.data.rsicap, hpo.data.scenes, sys;"
        "import hpo.data.messages, hpo.data.table;"
        f"print(sorted(set({sorted(TORCH)}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


TASKS = {name.rpartition(".")[2] for name in modules("hpo.training.tasks")} - {"tasks"}


def test_no_module_outside_the_tasks_asks_which_task_it_is():
    assert {"captioning", "classification", "vqa"} <= TASKS
    others = [name for name in FILES if not within(name, "hpo.training.tasks")]
    tested = [
        (name, constant.value)
        for name in others
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Compare | ast.match_case)
        for constant in ast.walk(node.pattern if isinstance(node, ast.match_case) else node)
        if isinstance(constant, ast.Constant) and constant.value in TASKS
    ]
    assert tested == []
    knows = [(n, i) for n in others for i in imports(n) if within(i, "hpo.training.tasks")]
    assert {i for _, i in knows} == {"hpo.training.tasks"}
