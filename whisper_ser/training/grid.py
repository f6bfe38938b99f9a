"""What varies in an experiment: the combinations of a grid's axes, or variants by name."""

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from whisper_ser.errors import RecipeError
from whisper_ser.training.settings import Arguments, conform, may_vary

VARIANTS = "variants"
"""The folder of an output that has one folder for each combination."""
ALL = "all"
"""The value of the axis `layers` for every layer of the encoder."""
MAX_FOLDER_NAME = 150
EXAMPLES = {
    "grid": """{"layers": [[2], [3]], "pooling_type": ["mean", "qkv"]}""",
    "variants": """{"ours": {}, "no mixup": {"mixup": 0}}""",
}


class Point(NamedTuple):
    """One combination of settings.

    Attributes:
        name: unique; empty where nothing varies.
        own: the settings in which it differs from the others.
        arguments: all its settings.
    """

    name: str
    own: dict[str, Any]
    arguments: Arguments


def check_grid(arguments: Arguments) -> None:
    """Raises `RecipeError` for a grid or variants of another form, or that vary what must be the same for all."""
    grid = arguments.grid
    if grid.variants is not None:
        if not grid.variants or not all(isinstance(own, dict) for own in grid.variants.values()):
            raise _form("variants", grid.variants)
        if grid.grid:
            raise RecipeError("Give either --variants or --grid.")
        for name, own in grid.variants.items():
            check_own(f"The variant {name!r}", own)
    for axis, values in (grid.grid or {}).items():
        if axis == "layers" and values == ALL:
            continue
        if not isinstance(values, list) or not values:
            raise _form("grid", grid.grid)
        for value in values:
            check_own(f"The axis {axis!r}", _own(axis, value))
    if arguments.model.model_name_or_path and any("encoder" in own for own in combinations(arguments)):
        raise RecipeError("A grid of encoders trains new models: leave --model_name_or_path out.")
    if grid.seeds and not grid.varies and arguments.data.protocol == "split":
        raise RecipeError("Several seeds need a --protocol that cross-validates, or a grid: one model has one seed.")


def _form(name: str, value: Any) -> RecipeError:
    return RecipeError(f"--{name} {json.dumps(value)}: expected a JSON object such as {EXAMPLES[name]}.")


def check_own(whose: str, own: dict[str, Any]) -> None:
    """Raises `RecipeError` for a value that its setting does not take, and for a setting that may not vary."""
    try:
        for name, value in own.items():
            if value is not None:
                conform(name, value)
    except RecipeError as error:
        raise RecipeError(f"{whose}: {error}") from error
    if fixed := sorted({*own} - may_vary()):
        raise RecipeError(
            f"{whose} sets {', '.join(fixed)}: what the model is and how it is trained may vary; corpus, folds and "
            "seeds are the same for all."
        )


def _own(axis: str, value: Any) -> dict[str, Any]:
    """Returns the settings that a value of an axis sets: several where it is an object."""
    return value if isinstance(value, dict) else {axis: value}


def combinations(arguments: Arguments, count_layers: Callable[[str], int] | None = None) -> list[dict[str, Any]]:
    """Returns the own settings of each variant, or of each combination of the axes; `[{}]` where nothing varies.

    Args:
        count_layers: returns the number of layers of an encoder, which `"all"` on the axis `layers` stands for; by
            default it stays `"all"`.
    """
    if arguments.grid.variants:
        return list(arguments.grid.variants.values())
    axes = [
        [_own(axis, value) for value in ([ALL] if values == ALL else values)]
        for axis, values in (arguments.grid.grid or {}).items()
    ]
    found = []
    for chosen in itertools.product(*axes):
        own = {name: value for one in chosen for name, value in one.items()}
        if own.get("layers") == ALL and count_layers:
            total = count_layers(own.get("encoder") or arguments.model.encoder or "")
            found += [{**own, "layers": [layer]} for layer in range(1, total + 1)]
        else:
            found.append(own)
    return found


def points_of(arguments: Arguments, count_layers: Callable[[str], int]) -> list[Point]:
    """Returns every combination with all its settings, each in a folder of its own where there are several.

    Args:
        count_layers: returns the number of layers of an encoder, which `"all"` stands for.

    Raises:
        RecipeError: two combinations would share a folder.
    """
    if not arguments.grid.varies:
        return [Point("", {}, arguments)]
    named = arguments.grid.variants or {point_name(own): own for own in combinations(arguments, count_layers)}
    points, folders = [], dict[str, str]()
    for name, own in named.items():
        folder = folder_name(name)
        if (twin := folders.setdefault(folder, name)) != name:
            raise RecipeError(f"{twin!r} and {name!r} would share a folder: call one of them otherwise.")
        place = str(Path(arguments.training.output_dir) / VARIANTS / folder)
        settings = arguments.with_settings(**own, grid=None, variants=None, output_dir=place)
        points.append(Point(name, own, settings))
    return points


def point_name(own: dict[str, Any]) -> str:
    """Returns what a combination is called, such as `whisper-base, layer 3, qkv`."""
    return ", ".join(_told(name, value) for name, value in own.items())


def _told(name: str, value: Any) -> str:
    if value is None:
        return f"{name} null"
    if name == "layers":
        return f"layer{'s' * (len(value) > 1)} {' '.join(map(str, value))}"
    if name == "encoder":
        return Path(value).name
    return value if name == "pooling_type" else f"{name} {value if isinstance(value, str) else json.dumps(value)}"


def folder_name(name: str) -> str:
    """Returns `name` as a file system takes it. Several names may become one."""
    folder = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if len(folder) <= MAX_FOLDER_NAME:
        return folder
    return f"{folder[: MAX_FOLDER_NAME - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
