"""Settings from a recipe and from flags, and settings as a recipe: a JSON file that `run_train.py` takes."""

import argparse
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

from whisper_ser.errors import RecipeError
from whisper_ser.io import replacing
from whisper_ser.training.checks import check_settings
from whisper_ser.training.grid import varied_by
from whisper_ser.training.settings import (
    Arguments,
    all_settings,
    build,
    conform,
    kind_of,
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
    parser = argparse.ArgumentParser(
        description="Train, fine-tune and test a speech emotion recognition model.",
        usage="%(prog)s [RECIPE.json] [--flag value ...]",
        allow_abbrev=False,
    )
    parser.error = _refuse  # type: ignore[method-assign]
    add_flags(parser, all_settings())
    given, unknown = parser.parse_known_args(argv[1:] if recipe else argv)
    try:
        if unknown:
            conform(unknown[0].removeprefix("--").partition("=")[0], None)
            raise RecipeError(f"{unknown[0]!r} belongs to no setting: flags are --name value.")
        settings = read_recipe(find_recipe(recipe)) if recipe else {}
        arguments = build(override(settings, values_of(given)))
        check_settings(arguments)
    except RecipeError as error:
        if recipe is None or recipe in str(error):
            raise
        raise RecipeError(f"{error} (The recipe is {recipe}.)") from error
    return arguments


def _refuse(message: str) -> NoReturn:
    raise RecipeError(f"{message}.")


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Adds a flag for each of these settings; one that is not given leaves nothing in the namespace."""
    known = all_settings()
    for name in names:
        kind, one = kind_of(name), known[name]
        form: dict[str, Any] = {"nargs": "+"} if _list_of(kind) is not None else {}
        if bool in _members(kind):
            form = {"nargs": "?", "const": "true"}
        choices = metadata(one).get("choices")
        default = "" if one.default in (None, "") or callable(one.default) else f" (default: {one.default})"
        told = " ".join(f"{metadata(one)['help']}{default}".split())
        parser.add_argument(
            f"--{name}",
            **form,
            default=argparse.SUPPRESS,
            metavar="{" + ",".join(choices) + "}" if choices else name.upper(),
            help=told.replace("%", "%%"),
        )


def values_of(given: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings given as flags, in their types.

    Raises:
        RecipeError: a text that stands for no value of its setting.
    """
    settings = {}
    for name, text in vars(given).items():
        kind = kind_of(name)
        if isinstance(text, list):
            value: Any = [_from_text(name, one, _list_of(kind)) for one in text]
        else:
            value = _from_text(name, text, kind)
        settings[name] = conform(name, value)
    return settings


def _members(kind: Any) -> tuple[Any, ...]:
    """Returns the types of a union, `None` left out, or the one type."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(one for one in kinds if one is not NoneType)


def _list_of(kind: Any) -> Any:
    """Returns the type of the values of a list, `None` for what is no list, or may be a text instead."""
    members = _members(kind)
    return get_args(members[0])[0] if len(members) == 1 and get_origin(members[0]) is list else None


def _from_text(name: str, text: str, kind: Any) -> Any:
    """Returns the value that a text on the command line stands for."""
    kinds = _members(kind)
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
        raise RecipeError(f"--{name} {text}: expected a JSON object ({problem}).")
    return text


def override(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `settings` with those of `over` in their place, axis by axis; a setting takes the place of its axis."""
    replaced = {*over}
    if over.get("model_name_or_path"):
        replaced.add("encoder")
    if over.get("seeds"):
        replaced.add("seed")
    merged = {name: value for name, value in settings.items() if name not in replaced} | dict(over)
    axes, changed = settings.get("grid") or {}, over.get("grid") or {}
    if isinstance(axes, dict) and isinstance(changed, dict):
        kept = {name: values for name, values in axes.items() if not varied_by(name, values) & replaced}
        merged["grid"] = {name: values for name, values in (kept | changed).items() if values is not None}
        if "seed" in {*over, *changed} and "seeds" not in over:
            merged.pop("seeds", None)
    if isinstance(variants := merged.get("variants"), dict):
        merged["variants"] = {name: _without(own, replaced) for name, own in variants.items()}
    return {name: value for name, value in merged.items() if value not in (None, {}) or name == "variants"}


def _without(own: Any, replaced: set[str]) -> Any:
    """Returns a variant without the settings that it only takes away and a flag gives."""
    if not isinstance(own, dict):
        return own
    return {name: value for name, value in own.items() if value is not None or name not in replaced}


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
    recipe, chain = translate(recipe), (*extended_by, path.resolve())
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


def portable(settings: dict[str, Any], published_encoder: str | None = None) -> dict[str, Any]:
    """Returns a recipe for other people: without paths of this machine, which are nobody's business.

    An encoder in a folder goes by the Hub id it was published under, where that is known. Otherwise it keeps the
    folder's name alone, as a saved model does.
    """
    of_this_machine, known = settings_of("machine"), all_settings()
    portable = {name: value for name, value in settings.items() if name not in of_this_machine}
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
