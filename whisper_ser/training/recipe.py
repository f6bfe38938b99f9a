"""Settings from a recipe and from flags, and settings as a recipe: a JSON file that `run_train.py` takes."""

import argparse
import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from whisper_ser.errors import RecipeError
from whisper_ser.io import replacing
from whisper_ser.training.checks import check_settings
from whisper_ser.training.settings import (
    Arguments,
    all_settings,
    build,
    find_setting,
    kind_of,
    kinds_of,
    may_vary,
    metadata,
    settings_of,
)

RECIPE = "recipe.json"


def parse_arguments(argv: list[str]) -> Arguments:
    """Returns the settings of a command line: a recipe `.json` first if there is one, flags over it.

    Raises:
        RecipeError: the recipe is no JSON object, has unknown fields, or the settings contradict each other.
    """
    recipe = argv[0] if argv and argv[0].endswith(".json") else None
    flags = read_flags(argv[1:] if recipe else argv)
    try:
        settings = read_recipe(find_recipe(recipe)) if recipe else {}
        arguments = build(override(settings, flags))
        check_settings(arguments)
    except RecipeError as error:
        if recipe is None or recipe in str(error):
            raise
        raise RecipeError(f"{error} (The recipe is {recipe}.)") from error
    return arguments


def read_flags(argv: list[str]) -> dict[str, Any]:
    """Returns the settings that flags give; raises `RecipeError` for what is no flag."""
    parser = argparse.ArgumentParser(
        description="Train, fine-tune and test a speech emotion recognition model.",
        usage="%(prog)s [RECIPE.json] [--flag value ...]",
        allow_abbrev=False,
    )
    parser.error = _refuse  # type: ignore[method-assign]
    add_flags(parser, all_settings())
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        find_setting(unknown[0].removeprefix("--").partition("=")[0])
        raise RecipeError(f"{unknown[0]!r} belongs to no setting: flags are --name value.")
    return _with_seeds(vars(given))


def _refuse(message: str) -> NoReturn:
    raise RecipeError(f"{message}.")


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Adds a flag for each of these settings; one that is not given leaves nothing in the namespace.

    `build` checks their values.
    """
    for name in names:
        one, kinds = find_setting(name), kinds_of(kind_of(name))
        form: dict[str, Any] = {"nargs": "?", "const": True} if bool in kinds else {}
        if [get_origin(kind) for kind in kinds] == [list]:
            form = {"nargs": "+"}
        choices = metadata(one).get("choices")
        default = "" if one.default in (None, "") or callable(one.default) else f" (default: {one.default})"
        told = " ".join(f"{metadata(one)['help']}{default}".split())
        parser.add_argument(
            f"--{name}",
            **form,
            type=partial(_from_text, name),
            default=argparse.SUPPRESS,
            metavar="{" + ",".join(choices) + "}" if choices else name.upper(),
            help=told.replace("%", "%%"),
        )


def _from_text(name: str, text: str) -> Any:
    """Returns the value of a flag: the text itself where the setting takes one, else a number or JSON."""
    kinds = kinds_of(kind_of(name))
    if get_origin(kinds[0]) is list:
        kinds = get_args(kinds[0])
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if str in kinds:
        return text
    for read in (int, float, json.loads):
        try:
            return read(text)
        except (ValueError, RecursionError) as error:
            problem = error
    if any(get_origin(one) is dict for one in kinds):
        raise argparse.ArgumentTypeError(f"{text}: expected a JSON object ({problem})")
    return text


def translate(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe of the first version, which saved models have beside them, as one of today.

    Its sweeps (`encoders`, `poolings`, `by_pooling`) are no settings any more: the error says what to write.

    Raises:
        RecipeError: a member of an ensemble that is a text and no JSON.
    """
    told = dict(recipe)
    if isinstance(members := told.get("ensemble"), list):
        try:
            told["ensemble"] = [json.loads(one) if isinstance(one, str) else one for one in members]
        except ValueError as error:
            raise RecipeError(f"ensemble {members} holds no JSON ({error}): give objects.") from error
    if {"layer_index", "layer_indices"} & told.keys():
        index, indices = told.pop("layer_index", None), told.pop("layer_indices", None)
        told["layers"] = indices or (index if index is None or isinstance(index, list) else [index])
    if isinstance(variants := told.get("variants"), dict):
        told["variants"] = {name: translate(own) if isinstance(own, dict) else own for name, own in variants.items()}
    return told


def _with_seeds(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns `settings` with the axis seed of the grid as `seeds`."""
    if not isinstance(axes := settings.get("grid"), dict) or not axes.get("seed"):
        return settings
    if settings.get("seeds"):
        raise RecipeError("Give either --seeds or the axis seed of --grid.")
    others = {name: values for name, values in axes.items() if name != "seed"}
    return {**settings, "grid": others, "seeds": axes["seed"]}


def override(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `settings` with those of `over` in their place, axis by axis; a setting takes the place of its axis."""
    replaced = {*over}
    if over.get("model_name_or_path"):
        replaced.add("encoder")
    if "seed" in over:
        replaced.add("seeds")
    merged = {name: value for name, value in settings.items() if name not in replaced} | dict(over)
    axes, changed = settings.get("grid") or {}, over.get("grid") or {}
    if isinstance(axes, dict) and isinstance(changed, dict):
        kept = {name: values for name, values in axes.items() if not varied_by(name, values) & replaced}
        merged["grid"] = {name: values for name, values in (kept | changed).items() if values is not None}
    if isinstance(variants := merged.get("variants"), dict):
        # What a variant only takes away, a flag gives to it too.
        merged["variants"] = {
            name: {one: value for one, value in own.items() if value is not None or one not in replaced}
            if isinstance(own, dict)
            else own
            for name, own in variants.items()
        }
    return {name: value for name, value in merged.items() if value not in (None, {}) or name == "variants"}


def varied_by(axis: str, values: Any) -> set[str]:
    """Returns the settings that an axis varies."""
    objects = [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
    return {axis} | {name for value in objects for name in value}


def find_recipe(name: str) -> Path:
    """Returns the recipe file `name`: as a path, else one that ships with the package, such as `recipes/best.json`."""
    path, package = Path(name).expanduser(), Path(__file__).parent.parent
    if path.exists():
        return path
    # Inside the package where it is installed, beside it in a checkout.
    for folder in (package / "recipes", package.parent / "recipes"):
        shipped = folder / Path(name).as_posix().removeprefix("recipes/")
        if not path.is_absolute() and ".." not in path.parts and shipped.is_file():
            return shipped
    return path


def read_recipe(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Returns the settings of a recipe over those of the recipe that it `extends`.

    Raises:
        RecipeError: a file that is missing or no JSON object, or recipes that extend each other.
    """
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        shipped = "recipes/best.json, recipes/baseline.json, recipes/demo.json"
        raise RecipeError(
            f"There is no recipe {path}: give a JSON file, or one that ships, such as {shipped}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"The recipe {path} is not JSON: {error}.") from error
    if not isinstance(recipe, dict):
        raise RecipeError(f"The recipe {path} must be a JSON object of settings.")
    recipe, chain = _with_seeds(translate(recipe)), (*extended_by, path.resolve())
    if "extends" in recipe:
        base = recipe.pop("extends")
        recipe = override(_extended(path, base, chain), recipe)
    if isinstance(variants := recipe.get("variants"), dict):
        recipe["variants"] = {name: _on_its_own_base(path, own, recipe, chain) for name, own in variants.items()}
    return recipe


def _extended(path: Path, base: Any, chain: tuple[Path, ...]) -> dict[str, Any]:
    """Returns the recipe `base`, beside the recipe `path` that extends it or one that ships."""
    beside = path.parent / str(base)
    found = beside if beside.is_file() else find_recipe(str(base))
    if not isinstance(base, str) or found.resolve() in chain:
        raise RecipeError(f"The recipe {path} extends {base!r}: expected another recipe, such as best.json.")
    return read_recipe(found, chain)


def _on_its_own_base(path: Path, own: Any, recipe: Mapping[str, Any], chain: tuple[Path, ...]) -> Any:
    """Returns a variant that extends another recipe as the settings by which it differs from this one."""
    if not isinstance(own, dict) or "extends" not in own:
        return own
    own = dict(own)
    base, varied = _extended(path, own.pop("extends"), chain), may_vary() - {"encoder"}
    taken_away = {name: None for name in recipe if name in varied}
    return {**taken_away, **{name: value for name, value in base.items() if name in varied}, **own}


def portable(settings: dict[str, Any], published_encoder: str | None = None) -> dict[str, Any]:
    """Returns a recipe to publish: without paths of this machine.

    An encoder in a folder goes by the Hub id it was published under, where that is known. Otherwise it keeps the
    folder's name alone, as a saved model does.
    """
    machine_settings, known = settings_of("machine"), all_settings()
    portable = {name: value for name, value in settings.items() if name not in machine_settings}
    for name in [name for name in portable if metadata(known[name]).get("checkpoint")]:
        if os.path.isdir(os.path.expanduser(portable[name])):
            portable[name] = Path(os.path.expanduser(portable[name])).resolve().name
            if name == "encoder" and published_encoder:
                portable[name] = published_encoder
    return portable


def write_recipe(folder: Path, settings: dict[str, Any]) -> None:
    """Writes `recipe.json` into `folder`."""
    with replacing(folder / RECIPE) as path:
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
