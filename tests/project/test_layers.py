"""The structure of the code: imports point down, each library has its place, and imports have no side effects."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "claude_bus"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}

PURE = (
    "records",
    "quoting",
    "names",
    "errors",
    "model",
    "jsons",
    "jsonrpc",
    "records",
    "limits",
    "addresses",
    "grants",
    "waking",
    "claim_paths",
    "drafts",
    "state_values",
    "patterns",
    "spelling",
    "text",
    "fence",
    "claim_text",
    "delivery_states",
    "config",
    "documents",
    "samples",
    "secret_hints",
    "session.turn",
    "session.hook_event",
)
"""Pure modules: values in, values out. Modules that a later version adds belong here too, or in a layer below."""

LAYERS: tuple[tuple[str, ...], ...] = (
    PURE,
    ("event_loop", "extras"),
    ("sql", "processes", "worktree", "supervisor", "detector", "claude_settings", "offload"),
    ("files", "registration"),
    ("drivers",),
    ("bus",),
    ("local", "remote"),
    ("connect", "workspace"),
    ("claude_code", "session"),
    ("mcp", "http", "cli", "compat", "selftest"),
    ("__main__",),
)
"""From the bottom up. A module imports only from its own layer and from those before it."""

KNOWN = {
    ("cli", "mcp"),
    ("cli", "http"),
    ("http", "mcp"),
    *((area, "compat") for area in ("cli", "http")),
    *(("compat", area) for area in ("cli", "http")),
}
"""Neighbours that know each other after all: the command line starts the servers, the app serves MCP as well."""

PLACES = {
    "mcp": {"mcp"},
    "mcp_types": {"mcp"},
    "pydantic": {"mcp", "http", "remote"},
    "starlette": {"mcp", "http", "compat"},
    "fastapi": {"http"},
    "uvicorn": {"http"},
    "h11": {"http"},
    "sse_starlette": {"http"},
    "limits": {"http"},
    "prometheus_client": {"http"},
    "httpx2": {"remote", "compat"},
    "aiosqlite": {"drivers"},
    "psutil": {"processes", "drivers"},
    "kingfisher_sdk": {"detector"},
}
"""The modules that may import each library, so that a new major version affects one area."""


DISTRIBUTIONS = {
    "kingfisher_sdk": "kingfisher-secret-scanner",
    "sse_starlette": "sse-starlette",
    "prometheus_client": "prometheus-client",
}
"""The name under which a library is installed, where it differs from the imported name."""


def area(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def is_sql(module: str) -> bool:
    return module.startswith(("sql", "compat.sql"))


def rank(module: str) -> int:
    found = [n for n, layer in enumerate(LAYERS) if area(module) in layer]
    assert found, f"{module} has no layer yet: give it one"
    return found[0]


def imports(module: str) -> set[str]:
    """All imports of a module, at any depth: `claude_bus.x` as `.x`, others by their full name."""
    found: set[str] = set()
    package = module.split(".")[:-1] if MODULES[module].name != "__init__.py" else module.split(".")
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                target = ".".join([*base, alias.name])
                found.add("." + (target if target in MODULES else ".".join(base)))
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def own(module: str) -> set[str]:
    """The modules of the package that it imports; the package itself may be imported only for its version."""
    return {name.removeprefix(".") for name in imports(module) if name.startswith(".")} - {"", "__init__"}


def libraries(module: str) -> set[str]:
    """The top-level names of its other imports, without the standard library."""
    tops = {name.split(".")[0] for name in imports(module) if not name.startswith(".")}
    return tops - sys.stdlib_module_names


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """A module imports only from its own layer and those below."""
    if module == "__init__":
        assert not own(module)
        return
    for other in own(module):
        assert rank(other) <= rank(module), f"{module} imports {other}"


@pytest.mark.parametrize("module", [name for name in MODULES if area(name) not in ("__init__", "__main__")])
def test_neighbours_in_a_layer_do_not_know_each_other(module: str) -> None:
    """Transports do not import transports. Only pure modules, and modules in one folder, build on each other."""
    for other in own(module):
        if rank(other) == rank(module) and area(module) not in PURE and area(other) != area(module):
            assert (area(module), area(other)) in KNOWN, f"{module} imports {other}"


def test_no_module_imports_itself_round_a_corner() -> None:
    """The imports have no cycle."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path, module))}"
        if module not in done:
            for other in own(module) & MODULES.keys():
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", [name for name in MODULES if name in PURE])
def test_rules_are_pure(module: str) -> None:
    """They use the standard library only, and no clock, environment, files, network or processes."""
    assert not libraries(module)
    outside = {
        "time",
        "os",
        "sys",
        "io",
        "socket",
        "subprocess",
        "sqlite3",
        "asyncio",
        "threading",
        "random",
        "secrets",
    }
    assert not {name.split(".")[0] for name in imports(module)} & outside
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"open", "print", "input", "datetime.now", "Path.home", "Path.cwd"}, (
                f"{module}: {called}"
            )


@pytest.mark.parametrize("module", [name for name in MODULES if is_sql(name)])
def test_verbs_use_only_what_they_are_given(module: str) -> None:
    """A verb gets its connection, its time and its knowledge of processes from its transaction."""
    assert not libraries(module)
    assert not {name.split(".")[0] for name in imports(module)} & {"time", "os", "sqlite3", "asyncio"}


@pytest.mark.parametrize("library", PLACES)
def test_a_library_is_known_in_one_place(library: str) -> None:
    """A new major version of a library then changes one place."""
    users = {area(module) for module in MODULES if library in libraries(module)}

    assert users <= PLACES[library]
    assert users


def test_all_libraries_are_those_we_declare() -> None:
    """Every imported library is a declared dependency, and every declared dependency is imported."""
    import tomllib

    declared = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    project = declared["project"]
    lines = [
        *project["dependencies"],
        *(line for name in ("serve", "secrets") for line in project["optional-dependencies"][name]),
    ]
    names = {line.split(">")[0].split("=")[0].strip() for line in lines}
    used = set().union(*(libraries(module) for module in MODULES))

    assert {DISTRIBUTIONS.get(name, name) for name in used - {"mcp_types"}} == names
    assert all("<" in line for line in lines)


SQL = ("SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ", "PRAGMA ", "BEGIN IMMEDIATE", "CREATE TABLE")


@pytest.mark.parametrize("module", [name for name in MODULES if not is_sql(name) and area(name) != "drivers"])
def test_sql_has_a_home(module: str) -> None:
    """No SQL text stands outside of the verbs and the drivers."""
    texts = [n.value for n in ast.walk(TREES[module]) if isinstance(n, ast.Constant) and isinstance(n.value, str)]

    assert not [text for text in texts if text.lstrip().startswith(SQL)]


@pytest.mark.parametrize("module", MODULES)
def test_nothing_happens_at_import(module: str) -> None:
    """The top level of a module contains definitions only: it opens, reads, starts and queries nothing."""
    for node in TREES[module].body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            continue
        assert isinstance(
            node,
            ast.Import
            | ast.ImportFrom
            | ast.FunctionDef
            | ast.AsyncFunctionDef
            | ast.ClassDef
            | ast.Assign
            | ast.AnnAssign
            | ast.Expr
            | ast.If,
        ), f"{module}:{node.lineno}"
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{module}:{node.lineno}"
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            called = {ast.unparse(call.func) for call in ast.walk(node.value) if isinstance(call, ast.Call)}
            assert not {
                name for name in called if name.startswith(("os.", "open", "sqlite3.connect", "time.", "socket."))
            }
            assert "environ" not in ast.unparse(node.value)


_WATCHED = """
import os, socket, sqlite3, sys

def watch(owner, name):
    original = getattr(owner, name)
    def watched(*arguments, **more):
        caller = sys._getframe(1).f_globals["__name__"]
        assert not caller.startswith("claude_bus"), f"{caller} used {name} at import"
        return original(*arguments, **more)
    setattr(owner, name, watched)

for owner, name in (
    *((type(os.environ), n) for n in ("__getitem__", "get", "__contains__", "__iter__", "copy")),
    (os, "getenv"), (os, "getcwd"), (sqlite3, "connect"), (socket.socket, "__init__"), (socket, "gethostname"),
):
    watch(owner, name)
import %s
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_importing_everything_asks_and_opens_nothing() -> None:
    """No module of ours reads the environment or opens a database or socket while it is imported."""
    modules = [f"claude_bus.{name}" for name in MODULES if name not in ("__init__", "__main__")]

    done = run(_WATCHED % ", ".join(modules))

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module", ["cli.main", "cli.send", "cli.inbox", "local", "session.session", "session.doorbell", "claude_code"]
)
def test_what_the_commands_import_is_light(module: str) -> None:
    """A command of the CLI, with all its imports, starts without MCP, pydantic, HTTP and the secret scanner."""
    heavy = {"mcp", "pydantic", "mcp_types", "httpx2", "kingfisher_sdk"}
    done = run(f"import sys, claude_bus.{module}; print(sorted({heavy} & set(sys.modules)))")

    assert done.stdout.strip() == "[]", done.stderr


_UNNEEDED = {
    "aiosqlite",
    "anyio",
    "asyncio",
    "concurrent.futures",
    "hashlib",
    "httpx2",
    "kingfisher_sdk",
    "logging",
    "mcp",
    "psutil",
    "pydantic",
    "secrets",
    "shutil",
    "socket",
    "ssl",
    "urllib.request",
}
"""Modules that take time to import, which a command on a file of this machine does not need."""


@pytest.mark.parametrize(
    "command",
    [
        (
            "send",
            "bob",
            "the log is in /home/alice/project/build/output.log, of 55eceb8f1a2b3c4d5e6f708192a3b4c5d6e7f809",
        ),
        ("send", "bob", "hello there"),
        ("inbox", "--as", "bob"),
        ("agents",),
        ("agents", "--json"),
        ("guard", "check"),
        ("token", "list"),
        ("import", os.devnull),
    ],
    ids=" ".join,
)
def test_a_command_imports_what_it_needs(tmp_path: Path, command: tuple[str, ...]) -> None:
    """No event loop, no scanner, no HTTP: each of these takes longer to import than the command takes."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    code = (
        "import sys; from claude_bus.cli.main import run; status = run(sys.argv[1:]); "
        f"print(status, sorted({_UNNEEDED!r} & set(sys.modules)), file=sys.stderr)"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent), "BUS_DB": str(tmp_path / "bus.db")}
    env |= {"HOME": str(tmp_path), "LOGNAME": "alice"}
    subprocess.run([sys.executable, "-m", "claude_bus", "send", "bob", "hi"], env=env, check=True, capture_output=True)

    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    needed = {"token": ["shutil"], "import": ["hashlib", "shutil"]}.get(command[0], [])  # help, digests
    assert done.stderr.splitlines()[-1:] == [f"0 {needed}"], done.stderr
