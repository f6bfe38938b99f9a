"""The structure of the code: rooms whose imports run downward, and what may stand at the top."""

import ast
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import ROOT

LEVELS = (
    ("errors", "modeling_whisper_ser"),
    ("io",),
    ("audio",),
    ("data", "demo", "evaluation"),
    ("inference", "models"),
    ("training",),
    ("report",),
    ("paper", "hub", "export", "serving", "page"),
    ("commands",),
    ("cli",),
    ("__main__", "run_train", "push_to_hub", "app"),
)
"""Rooms from the ground up: each imports from the levels below it, and from its own level without a circle."""
MAX_FLOORS = 9
"""Floors of rooms below the doors, which are files of the last level, `cli` and the package's own `__init__`."""
TOP = {"__init__.py", "__main__.py", "cli.py", "errors.py", "io.py", "py.typed"}
MODEL_MAY_IMPORT = {"numpy", "torch", "transformers"}

Arrows = dict[str, dict[str, set[str]]]


def imported(path: Path, root: Path) -> set[str]:
    """Returns the dotted names of all modules that a file imports, relative and lazy imports included."""
    package = [*path.relative_to(root).parent.parts]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            # `from whisper_ser import x` may name a module, or something that `__init__` holds.
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str | None:
    """Returns the room of a dotted name, `None` for what is none of the project's."""
    parts = module.split(".")
    if parts[0] == "whisper_ser" and len(parts) > 1:
        return parts[1]
    return parts[0] if parts[0] in ("modeling_whisper_ser", "run_train", "push_to_hub", "app") else None


def arrows(root: Path) -> Arrows:
    """Returns which files of each room import which other room."""
    files = [*root.glob("whisper_ser/**/*.py"), *root.glob("modeling_whisper_ser/*.py"), *root.glob("*.py")]
    rooms = {room for level in LEVELS for room in level}
    found: Arrows = defaultdict(lambda: defaultdict(set))
    for path in files:
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        here = room_of(module)
        if here == "__init__":
            continue  # the public names, imported when they are asked for
        assert here is not None, module
        for there in map(room_of, imported(path, root)):
            if there in rooms and there != here:
                found[here][there].add(module)
    return found


def floors(found: Arrows) -> dict[str, int]:
    """Returns the floor of each room: 1 above the highest that it imports. Raises for a circle."""
    known: dict[str, int] = {}

    def floor(room: str, below: tuple[str, ...] = ()) -> int:
        assert room not in below, f"a circle: {' -> '.join([*below, room])}"
        if room not in known:
            known[room] = 1 + max((floor(other, (*below, room)) for other in found.get(room, {})), default=0)
        return known[room]

    for room in list(found):
        floor(room)
    return known


def check_house(root: Path) -> dict[str, int]:
    found = arrows(root)
    level_of = {room: number for number, level in enumerate(LEVELS) for room in level}
    up = [
        f"{module} imports {there}"
        for here, others in found.items()
        for there, modules in others.items()
        for module in modules
        if here not in level_of or level_of[there] > level_of[here]
    ]
    assert not up, f"arrows up: {up}"
    return floors(found)


def test_imports_run_downward_without_a_circle_on_few_floors():
    found = check_house(ROOT)
    doors = {*LEVELS[-1], "cli"}
    assert max(floor for room, floor in found.items() if room not in doors) <= MAX_FLOORS
    assert {"audio", "data", "inference", "training", "report", "hub", "commands"} <= found.keys()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("whisper_ser/data/new.py", "from whisper_ser.training import settings"),
        ("whisper_ser/data/new.py", "from whisper_ser import training"),
        ("whisper_ser/data/new.py", "from ..training.settings import Arguments"),
        ("whisper_ser/evaluation/new.py", "def f():\n    import whisper_ser.report.run"),
        ("whisper_ser/io.py", "from whisper_ser.audio import decoding"),
        ("modeling_whisper_ser/new.py", "from whisper_ser.io import replacing"),
        ("whisper_ser/unknown/new.py", "from whisper_ser.errors import CorpusError"),
    ],
)
def test_a_new_arrow_up_or_a_room_of_no_level_is_found(tmp_path, file, line):
    for path in ("whisper_ser/errors.py", "whisper_ser/training/__init__.py", file):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(line if path == file else "")
    with pytest.raises(AssertionError, match="arrows up"):
        check_house(tmp_path)


def test_a_circle_among_rooms_of_one_level_is_found(tmp_path):
    for here, there in (("hub", "page"), ("page", "hub")):
        (tmp_path / "whisper_ser" / here).mkdir(parents=True)
        (tmp_path / "whisper_ser" / here / "a.py").write_text(f"from whisper_ser.{there} import a")
    with pytest.raises(AssertionError, match="a circle"):
        check_house(tmp_path)


def test_rooms_take_nothing_from_the_package_itself_but_its_version():
    for path in (ROOT / "whisper_ser").glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "whisper_ser" and not node.level:
                names = {alias.name for alias in node.names}
                modules = {name for name in names if (ROOT / "whisper_ser" / name).is_dir()}
                assert names - modules <= {"__version__"} or "page" in path.parts, path


def test_only_doors_and_ground_stand_at_the_top():
    entries = {path.name for path in (ROOT / "whisper_ser").iterdir() if path.is_file()}
    assert entries == TOP
    assert {path.name for path in ROOT.glob("*.py")} == {"run_train.py", "push_to_hub.py", "app.py"}
    for door in ROOT.glob("*.py"):
        assert len(door.read_text().splitlines()) <= 20, door


def test_what_travels_to_the_hub_imports_torch_numpy_transformers_and_siblings_only():
    for path in (ROOT / "modeling_whisper_ser").glob("*_whisper_ser.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module, f"{path.name}: from .sibling import X alone travels"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                for name in names:
                    top = name.split(".")[0]
                    assert top in MODEL_MAY_IMPORT or top in sys.stdlib_module_names, f"{path.name} imports {name}"
