"""Which grids are sweeps of encoders, layers and poolings: the report of the paper is made of them."""

from collections.abc import Sequence

from whisper_ser.training.experiment import Experiment, new_config
from whisper_ser.training.grid import Point
from whisper_ser.training.settings import settings_of


def is_sweep(experiment: Experiment, points: Sequence[Point]) -> bool:
    """Returns whether encoders, single layers and poolings vary, and nothing else but settings of each pooling."""
    of_heads = settings_of("head")
    varied = {name for point in points for name in point.own}
    if not experiment.arguments.grid.grid or varied - of_heads - {"encoder", "layers"}:
        return False
    cells, heads = set(), set()
    for point in points:
        config = new_config(experiment, point.arguments)
        if config is None or config.ensemble or len(config.layer_indices) > 1:
            return False
        cells.add((point.arguments.model.encoder, config.layer_index, config.pooling_type))
        own = {name: value for name, value in sorted(point.own.items()) if name in of_heads}
        heads.add((config.pooling_type, str(own)))
    # Each pooling has one head, the same on every layer.
    return len(cells) == len(points) and len(heads) == len({pooling for pooling, _ in heads})
