"""Does memory grow with the corpus? One epoch on the feature store of a corpus, and on one many times its size.

The larger store is made of the states of the corpus and of copies of them under other keys, each moved by a little
noise so that every shard is its own. Every size trains in a process of its own; memory is the highest resident set
size.

    python benchmarks/bench_memory.py --data_dir path/to/emodb4 --encoder path/to/whisper-base --layers 3
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.data.audio_index import index_audio
from whisper_ser.data.splits import Split
from whisper_ser.training.data import load, plan_folds
from whisper_ser.training.feature_store import Features, _scan, _write_shard, fill, store_folders
from whisper_ser.training.models import build_model
from whisper_ser.training.recipe import parse_arguments
from whisper_ser.training.trainer import Inputs, train


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of training by size of the feature store.")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--layers", default="3")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = f"--data_dir {given.data_dir} --encoder {given.encoder} --layers {given.layer_index}"
        flags = [*run.split(), "--num_train_epochs", "1", "--output_dir", f"{folder}/run", "--feature_dir", folder]
        rows = [_in_a_process(flags, size) for size in given.sizes]
    print("\n| times the corpus | store, MB | utterances trained on | peak memory, MB | of the first | s a step |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        share = row["megabytes"] / rows[0]["megabytes"]
        figures = f"{row['store_megabytes']:.0f} | {row['utterances']} | {row['megabytes']:.0f} | {share:.2f}x"
        print(f"| {row['size']} | {figures} | {row['seconds_a_step']:.3f} |")
    if given.output:
        given.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _in_a_process(flags: list[str], size: int) -> dict[str, Any]:
    # What prepares the store may take what memory it wants: only the process that trains is measured.
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        pool.apply(_prepare, (flags, size))
    with context.Pool(1) as pool:
        return pool.apply(_measure, (flags, size))


def _prepare(flags: list[str], size: int) -> None:
    arguments = parse_arguments(flags)
    paths = sorted(load(arguments.data)["path"])
    model, extractor = build_model(arguments.model, load(arguments.data).features["emotion"].names)
    store = Path(arguments.data.feature_dir)
    fill(model, extractor, index_audio(paths, progress=False), store)
    (folder,) = store_folders(store, model, extractor, model.config.layer_indices).values()
    shards = [shard for shard in folder.glob("*.safetensors") if "+" not in next(iter(load_file(shard)))]
    for copy in range(1, size):
        for shard in shards:
            states = {f"{key}+{copy}": value for key, value in load_file(shard).items()}
            _write_shard(folder, {key: value + 1e-2 * torch.randn_like(value) for key, value in states.items()})


def _measure(flags: list[str], size: int) -> dict[str, Any]:
    arguments = parse_arguments(flags)
    (fold,) = plan_folds(load(arguments.data), arguments.data, arguments.training.seed)
    model, extractor = build_model(arguments.model, fold.split.train.features["emotion"].names)
    features = _features(model, extractor, Path(arguments.data.feature_dir), fold.split, size)
    split = Split(_repeated(fold.split.train, size), fold.split.validation, fold.split.test)
    start = time.perf_counter()
    train(model, extractor, Inputs(features, {}, 0.0), split, arguments, resumable=False)
    seconds = time.perf_counter() - start
    return {
        "size": size,
        "store_megabytes": sum(place.frames for place in features.places[features.layers[0]].values())
        * features.width
        * 2
        / 1e6,
        "utterances": len(split.train),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "seconds_a_step": seconds / -(-len(split.train) // arguments.training.train_batch_size),
    }


def _features(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    store: Path,
    split: Split,
    size: int,
) -> Features:
    records = index_audio(sorted({path for part in split for path in part["path"]}), progress=False)
    keys = {path: record.sample_hash for path, record in records.items()}
    keys |= {f"{path}+{copy}": f"{key}+{copy}" for path, key in keys.items() for copy in range(1, size)}
    layers = tuple(model.config.layer_indices)
    folders = store_folders(store, model, extractor, layers)
    places = {layer: _scan(folder) for layer, folder in folders.items()}
    return Features(layers, model.config.encoder_config.d_model, keys, places)


def _repeated(part: Dataset, size: int) -> Dataset:
    def copied(number: int) -> Dataset:
        return part.map(lambda row: {"path": f"{row['path']}+{number}"}, load_from_cache_file=False)

    return concatenate_datasets([part, *map(copied, range(1, size))])


if __name__ == "__main__":
    main()
