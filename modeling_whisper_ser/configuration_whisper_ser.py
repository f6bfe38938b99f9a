"""Configuration of the Whisper speech emotion recognition models."""

import copy
import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

from transformers import PreTrainedConfig, WhisperConfig

POOLING_TYPES = ("mean", "attentive", "qkv", "statistics")
LAYER_MIXINGS = ("none", "concat", "weighted", "attention")
SCORE_ACTIVATIONS = ("none", "tanh")
CHOICES = {"pooling_type": POOLING_TYPES, "layer_mixing": LAYER_MIXINGS, "score_activation": SCORE_ACTIVATIONS}
POOLING_QUERIES = ("mean", "learnt", "max")
MEMBER_FIELDS = (
    "layer_indices",
    "layer_mixing",
    "pooling_type",
    "num_pooling_heads",
    "pooling_head_dim",
    "pooling_queries",
    "pooling_statistics",
    "score_activation",
    "scale_scores",
    "layer_norm_after_pooling",
    "input_dropout",
    "pooling_dropout",
)
LABEL_FIELDS = ("class_weights", "class_priors")
REMOTE_CODE_FIELDS = ("custom_pipelines", "trust_remote_code")

FRAMES_PER_SECOND = 50
"""Encoder frames per second of audio: mel frames every 10 ms, halved by Whisper's second convolution."""

# A config says how much memory is allocated before any weight is read, so sizes are limited.
MAX_WIDTH = 2**15
MAX_LABELS = 1000
MAX_ENCODER_SIZES = {
    "num_mel_bins": 1024,
    "d_model": 2**13,
    "encoder_layers": 256,
    "encoder_attention_heads": 256,
    "encoder_ffn_dim": 2**15,
    "max_source_positions": 30000,
}
MAX_ENCODER_WEIGHTS = 2 * 10**9  # three times those of whisper-large


class ConfigError(ValueError):
    """A field of `WhisperSerConfig` has an invalid value, or its name is misspelt."""


class WhisperSerConfig(PreTrainedConfig):
    """Configuration of a model: the encoder, the layers that are read, pooling, classifier and loss.

    Names follow the paper (arXiv 2602.06000): `d_model` is the width after the projector; the width of the Whisper
    encoder is `encoder_config.d_model`.

    Args:
        encoder_config: the `WhisperConfig` (or its dict) of the checkpoint the encoder was cut from.
        layer_index: the encoder layer that is read, from 1; layers above it are not part of the model. The last layer
            includes the encoder's final LayerNorm. By default the middle layer: half the layers, rounded up.
        layer_mixing: how several layers become one: `"none"` reads the single layer `layer_index`, `"concat"` joins
            layers side by side, `"weighted"` learns one weight per layer, `"attention"` weights per frame.
        layer_indices: the layers read, ascending; `layer_index` is the highest. By default, and always with
            `layer_mixing="none"`, `[layer_index]`.
        d_model: width of the projected frames and of the pooled vector.
        pooling_type: `"mean"`, `"attentive"` (paper, section 3.2.1), `"qkv"` (section 3.2.2) or `"statistics"`
            (mean and standard deviation over the frames of the states themselves, projected after the pooling).
        num_pooling_heads, pooling_head_dim: attention heads and the size of each (`attentive` and `qkv`).
        pooling_queries: `["mean"]`: the query of `qkv` is the mean of the frames. Saved models may have other queries
            (`"learnt"`, `"max"`, or several, with `num_pooling_heads` heads each); new ones may not.
        pooling_statistics: `attentive` and `qkv` take the weighted standard deviation of the values besides their
            weighted mean (attentive statistics pooling, Okabe et al. 2018).
        score_activation: applied to the attention scores before the softmax: `"none"` as in the paper, or `"tanh"`,
            which the authors' code uses for `qkv`.
        scale_scores: divide the scores by `sqrt(pooling_head_dim)`. By default as in the paper's equations: true for
            `qkv` (8a), false for `attentive` (4); the authors' code scales both.
        layer_norm_after_pooling: one more LayerNorm before the classifier, as in the authors' code.
        input_dropout: share of the channels of the (standardised) encoder states dropped in training, the same
            channels in all frames of an utterance: dropout per frame would average out in the pooling. With
            `statistics`, means and deviations are dropped instead.
        pooling_dropout: inside the pooling: on `tanh(h W + b)` for `attentive`, on queries, keys and values for `qkv`.
        classifier_dropout: on the pooled vector.
        channel_standardisation: subtract mean and divide by deviation per channel of the encoder states. The
            statistics are those of the training frames and are saved with the model.
        chunk_seconds: audio is encoded in even chunks of at most this many seconds; positions restart in each.
        frame_averaging: average groups of this many encoder frames (50 per second) before the head; 1 keeps all
            frames. A head on fewer frames is much faster to train.
        ensemble: several heads instead of one. Each member is a dict of the fields in which it differs from those
            above: `[{}, {}, {"pooling_type": "attentive"}]` has two members that differ only in their initial weights
            and a third with another pooling. All read the same encoder pass; the result is the mean of their
            probabilities. A member may set its own `layer_indices`; otherwise it reads `layer_index` without
            `layer_mixing`, and the model's `layer_indices` with it. The model's `layer_indices` default to all layers
            that a member reads. `scale_scores` follows a member's own `pooling_type`.
        unfreeze_last_n: how many of the encoder layers, from the top, are trained. 0 leaves the encoder frozen.
        class_weights: one loss weight per label, or `None`.
        class_priors: the share of each label in the training part. The loss then adds their logarithms to the logits
            (logit adjustment, Menon et al. 2021), so that the logits do not favour frequent labels.
        mixup: alpha of mixup (Zhang et al. 2018), 0 for none: in training, pooled vectors of two utterances and their
            losses are mixed with a share drawn from Beta(alpha, alpha). As utterances differ in length and pooled
            vectors do not, this is manifold mixup (Verma et al. 2019) at the last hidden layer.
        label_smoothing: label smoothing of the loss, in [0, 1).
        temperature: the logits are divided by it to calibrate the probabilities (Guo et al. 2017). Training fits it on
            validation speakers; the loss does not use it.

    Raises:
        ConfigError: names the field, its value and the valid values; also for a misspelt field name.
    """

    model_type = "whisper_ser"
    sub_configs = {"encoder_config": WhisperConfig}
    keys_to_ignore_at_inference = ["pooler_output", "frame_states", "frame_mask", "pooling_attentions"]

    # None means "not given" until __post_init__ fills it in.
    encoder_config: WhisperConfig = None  # type: ignore[assignment]
    layer_index: int = None  # type: ignore[assignment]
    layer_mixing: str = "none"
    layer_indices: list[int] = None  # type: ignore[assignment]
    d_model: int = 256
    pooling_type: str = "qkv"
    num_pooling_heads: int = 12
    pooling_head_dim: int = 4
    pooling_queries: list[str] = None  # type: ignore[assignment]
    pooling_statistics: bool = False
    score_activation: str = "none"
    scale_scores: bool = None  # type: ignore[assignment]
    layer_norm_after_pooling: bool = False
    input_dropout: float = 0.0
    pooling_dropout: float = 0.1
    classifier_dropout: float = 0.0
    channel_standardisation: bool = True
    chunk_seconds: float = 4.0
    frame_averaging: int = 1
    ensemble: list[dict[str, Any]] | None = None
    unfreeze_last_n: int = 0
    class_weights: list[float] | None = None
    class_priors: list[float] | None = None
    mixup: float = 0.0
    label_smoothing: float = 0.0
    temperature: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        loaded = kwargs.pop("loaded", False)
        for name in REMOTE_CODE_FIELDS:
            kwargs.pop(name, None)
        check_names(kwargs, allow_newer=True)
        self._check_form_of_ensemble()
        if not loaded:
            self._refuse_retired_queries()
        if self.encoder_config is None:
            self.encoder_config = WhisperConfig()
        elif isinstance(self.encoder_config, dict):
            self.encoder_config = WhisperConfig(**self.encoder_config)
        elif not isinstance(self.encoder_config, WhisperConfig):
            raise ConfigError(f"encoder_config={self.encoder_config!r} must be a WhisperConfig or its dict.")
        if self.layer_indices is None:
            self.layer_indices = self._layers_of_members()
        if self.layer_index is None:
            middle = math.ceil(self.encoder_config.encoder_layers / 2)
            self.layer_index = self.layer_indices[-1] if self.layer_indices else middle
        if self.layer_indices is None:
            self.layer_indices = [self.layer_index]
        if self.pooling_queries is None:
            self.pooling_queries = ["mean"]
        if self.scale_scores is None:
            self.scale_scores = self.pooling_type == "qkv"
        super().__post_init__(**kwargs)
        if not self.label2id:
            self.label2id = {label: index for index, label in enumerate(self.labels)}
        self.check_values()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; new labels drop the class weights and priors of the saved ones."""
        if {"num_labels", "id2label"} & kwargs.keys():
            config_dict = {name: value for name, value in config_dict.items() if name not in LABEL_FIELDS}
        if "id2label" in kwargs:
            kwargs.setdefault("label2id", {label: int(index) for index, label in kwargs["id2label"].items()})
        return super().from_dict({**config_dict, "loaded": True}, **kwargs)

    @property
    def chunk_frames(self) -> int:
        """The maximum number of encoder frames in a chunk."""
        return round(self.chunk_seconds * FRAMES_PER_SECOND)

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the logits."""
        names: dict[Any, str] = dict(self.id2label or {})
        return [names[index] for index in sorted(names)]

    def of_heads(self) -> list[Self]:
        """Returns the configuration of each head: of each member of the ensemble, or this one."""
        return [self] if self.ensemble is None else [self._of_member(member) for member in self.ensemble]

    def _of_member(self, member: dict[str, Any]) -> Self:
        config = copy.copy(self)
        config.ensemble = None
        if member.get("pooling_type", self.pooling_type) != self.pooling_type:
            config.scale_scores = member["pooling_type"] == "qkv"
        for name, value in member.items():
            setattr(config, name, value)
        if "layer_indices" not in member and config.layer_mixing == "none":
            config.layer_indices = [self.layer_index]
        if config.layer_indices:
            config.layer_index = config.layer_indices[-1]
        config.unfreeze_last_n = 0
        return config

    def _layers_of_members(self) -> list[int] | None:
        """Returns all layers that members of an ensemble read if one of them names its own; else `None`."""
        named = [member.get("layer_indices") for member in self.ensemble or []]
        layers = {layer for indices in named for layer in indices or []}
        if layers and None in named and self.layer_index is not None:
            layers.add(self.layer_index)
        return sorted(layers) or None

    def check_values(self) -> None:
        """Raises `ConfigError` for an invalid field. Models call it again, as fields can be set after creation."""
        self._check_form_of_ensemble()
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}.")
        queries = self.pooling_queries
        if not queries or len({*queries}) < len(queries) or not {*queries} <= {*POOLING_QUERIES}:
            raise ConfigError(f"pooling_queries={queries!r} must be one or more of {', '.join(POOLING_QUERIES)}.")
        for name in ("scale_scores", "layer_norm_after_pooling", "channel_standardisation", "pooling_statistics"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be true or false.")
        for name in ("d_model", "num_pooling_heads", "pooling_head_dim", "frame_averaging"):
            check_integer(name, getattr(self, name), 1, MAX_WIDTH)
        if self.num_pooling_heads * self.pooling_head_dim > MAX_WIDTH:
            raise ConfigError(
                f"num_pooling_heads={self.num_pooling_heads} times pooling_head_dim={self.pooling_head_dim} is more "
                f"than {MAX_WIDTH}."
            )
        for name in ("input_dropout", "pooling_dropout", "classifier_dropout", "label_smoothing"):
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be a number of at least 0 and below 1.")
        if not is_number(self.temperature) or self.temperature <= 0:
            raise ConfigError(f"temperature={self.temperature!r} must be a number above 0.")
        if not is_number(self.mixup) or self.mixup < 0:
            raise ConfigError(f"mixup={self.mixup!r} must be a number of at least 0.")
        self._check_encoder()
        self._check_layers()
        self._check_labels()
        if self.ensemble is not None:
            self._check_ensemble()

    def _check_ensemble(self) -> None:
        for number, (member, config) in enumerate(zip(self.ensemble or [], self.of_heads(), strict=True), start=1):
            try:
                config.check_values()
            except ConfigError as error:
                raise ConfigError(f"Member {number} of the ensemble, {member!r}: {error}") from error
            if not {*config.layer_indices} <= {*self.layer_indices}:
                raise ConfigError(
                    f"Member {number} of the ensemble reads the layers {config.layer_indices}; expected a subset of "
                    f"layer_indices={self.layer_indices!r}."
                )
        read = {layer for config in self.of_heads() for layer in config.layer_indices}
        if unread := sorted({*self.layer_indices} - read):
            raise ConfigError(f"No member of the ensemble reads {unread} of layer_indices={self.layer_indices!r}.")

    def _check_form_of_ensemble(self) -> None:
        if self.ensemble is None:
            return
        if not isinstance(self.ensemble, list) or len(self.ensemble) < 2:
            raise ConfigError(f"ensemble={self.ensemble!r} must list at least two members, such as [{{}}, {{}}].")
        for member in self.ensemble:
            if not isinstance(member, dict) or not {*member} <= {*MEMBER_FIELDS}:
                raise ConfigError(
                    f"A member of the ensemble is {member!r}; expected a dict of {', '.join(MEMBER_FIELDS)}, or {{}}."
                )

    def _refuse_retired_queries(self) -> None:
        for queries in (self.pooling_queries, *(member.get("pooling_queries") for member in self.ensemble or [])):
            if queries not in (None, ["mean"]):
                raise ConfigError(
                    f"pooling_queries={queries!r} is only for models saved earlier; a new model has ['mean'], the "
                    "default: leave pooling_queries out."
                )

    def _check_encoder(self) -> None:
        """Raises for an encoder that is impossible or larger than any Whisper, and for chunks that do not fit it."""
        whisper = self.encoder_config
        for name, largest in MAX_ENCODER_SIZES.items():
            check_integer(f"encoder_config.{name}", getattr(whisper, name), 1, largest)
        if whisper.d_model % whisper.encoder_attention_heads or whisper.d_model % 2:
            raise ConfigError(
                f"encoder_config.d_model={whisper.d_model} must be even and a multiple of "
                f"encoder_attention_heads={whisper.encoder_attention_heads}."
            )
        weights_per_layer = 4 * whisper.d_model**2 + 2 * whisper.d_model * whisper.encoder_ffn_dim
        if whisper.encoder_layers * weights_per_layer > MAX_ENCODER_WEIGHTS:
            raise ConfigError(
                f"encoder_config describes an encoder of more than {MAX_ENCODER_WEIGHTS:.0e} weights, larger than any "
                "Whisper."
            )
        longest = whisper.max_source_positions / FRAMES_PER_SECOND
        if not is_number(self.chunk_seconds) or not 0.5 <= self.chunk_seconds <= longest:
            raise ConfigError(
                f"chunk_seconds={self.chunk_seconds!r} must lie between 0.5 and {longest:g}, the seconds that the "
                "encoder has positions for."
            )

    def _check_layers(self) -> None:
        layers = self.encoder_config.encoder_layers
        check_integer("layer_index", self.layer_index, 1, layers)
        check_integer("unfreeze_last_n", self.unfreeze_last_n, 0, self.layer_index)
        if self.ensemble is None and self.layer_mixing == "none" and list(self.layer_indices) != [self.layer_index]:
            raise ConfigError(
                f"layer_indices={self.layer_indices!r} must be [{self.layer_index}], the layer_index, with "
                "layer_mixing='none'."
            )
        for layer in self.layer_indices:
            check_integer("layer_indices", layer, 1, layers)
        ascending = list(self.layer_indices) == sorted({*self.layer_indices})
        if not ascending or list(self.layer_indices[-1:]) != [self.layer_index]:
            raise ConfigError(
                f"layer_indices={self.layer_indices!r} must ascend to {self.layer_index}, the layer_index."
            )

    def _check_labels(self) -> None:
        # JSON and transformers' example scripts turn the numbers into strings.
        self.id2label = {int(index): label for index, label in (self.id2label or {}).items()}
        self.label2id = {label: int(index) for label, index in (self.label2id or {}).items()}
        if not self.labels or dict(enumerate(self.labels)) != self.id2label:
            raise ConfigError(f"id2label={self.id2label!r} must number its labels 0, 1, 2, ...")
        if not all(isinstance(label, str) and label.isprintable() for label in self.labels):
            raise ConfigError(f"id2label={self.id2label!r} must have printable labels.")
        if len(self.labels) > MAX_LABELS:
            raise ConfigError(f"id2label has {len(self.labels)} labels; the maximum is {MAX_LABELS}.")
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"id2label={self.id2label!r} has duplicate labels.")
        if self.label2id != {label: index for index, label in enumerate(self.labels)}:
            raise ConfigError(f"label2id={self.label2id!r} is not the inverse of id2label={self.id2label!r}.")
        for name, allowed in (("class_weights", "of at least 0"), ("class_priors", "above 0")):
            values = getattr(self, name)
            if values is None:
                continue
            valid = len(values) == len(self.labels) and all(is_number(value) and value >= 0 for value in values)
            if not valid or (name == "class_priors" and 0 in values):
                raise ConfigError(
                    f"{name}={values!r} must be {len(self.labels)} numbers {allowed}, one for each of "
                    f"{', '.join(self.labels)}."
                )


def is_number(value: Any) -> bool:
    """Returns whether `value` is a finite number and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_integer(name: str, value: Any, lowest: int, highest: int) -> None:
    """Raises `ConfigError` unless `value` is an integer from `lowest` to `highest`."""
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise ConfigError(f"{name}={value!r} must be a whole number from {lowest} to {highest}.")


def check_names(names: Iterable[str], also: Sequence[str] = (), allow_newer: bool = False) -> None:
    """Raises `ConfigError` for names, such as `poling_type`, that are no fields; `PreTrainedConfig` accepts any.

    Args:
        names: as they were given.
        also: other names that are valid.
        allow_newer: only near misses are errors, so that fields of a newer transformers pass.
    """
    known = [*WhisperSerConfig.__annotations__, "id2label", "label2id", "num_labels", "problem_type", *also]
    for name in names:
        if name in known or (allow_newer and hasattr(PreTrainedConfig, name)):
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8 if allow_newer else 0.5)
        if close or not allow_newer:
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ConfigError(f"WhisperSerConfig has no field {name!r}{hint}")


WhisperSerConfig.register_for_auto_class()
