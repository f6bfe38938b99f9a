"""Speech emotion recognition from a frozen Whisper encoder: head, pooled vector, and emotion classification."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.whisper.modeling_whisper import sinusoids
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_whisper_ser import LABEL_FIELDS, ConfigError, WhisperSerConfig, check_names
from .encoder_whisper_ser import HUB_ARGUMENTS, AbsentEncoder, WhisperSerEncoder, load_encoder, load_whisper_config
from .pooling_whisper_ser import (
    AttendedLayers,
    AttentivePooling,
    JoinedLayers,
    Packing,
    QKVPooling,
    Standardisation,
    StatisticsPooling,
    WeightedLayers,
    build_mixing,
    build_pooling,
)


class MissingWeightsError(ValueError):
    """A saved model with weights missing or of the wrong shape, which would otherwise be random."""


@dataclass
class WhisperSerModelOutput(ModelOutput):
    """Outputs of `WhisperSerModel`.

    Args:
        pooler_output: the utterance as one vector `(batch, d_model)`; for an ensemble the members' vectors side by
            side, `(batch, members * d_model)`.
        frame_states: the encoder states of the layers read, on request: `(batch, layers, frames, width)`, or as they
            were given.
        frame_mask: true on real frames `(batch, frames)`, on request.
        pooling_attentions: attention weights of the pooling heads `(batch, heads, frames)`, on request; for an
            ensemble those of all members with attention.
    """

    pooler_output: torch.Tensor | None = None
    frame_states: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None
    pooling_attentions: torch.Tensor | None = None


@dataclass
class WhisperSerClassifierOutput(ModelOutput):
    """Outputs of `WhisperForEmotionClassification`: loss, logits, and the fields of `WhisperSerModelOutput`.

    Args:
        loss: cross entropy, if labels were given; for an ensemble the sum of the members' losses. It does not use the
            temperature.
        logits: `(batch, num_labels)`, divided by the temperature; for an ensemble the logarithm of the members' mean
            probabilities.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    frame_states: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None
    pooling_attentions: torch.Tensor | None = None


class HeadParts:
    """Layer mixing, projector with LayerNorm, and pooling: from encoder states to one vector.

    A mixin, so that a model without an ensemble is its own head and the names of its weights have no prefix.

    Attributes:
        pools_states: the mixed states are pooled and then projected, instead of projected and then pooled.
        frame_width: width of the frame vectors that are pooled.
    """

    training: bool
    pools_states: bool
    frame_width: int
    input_dropout: nn.Dropout
    mixing: JoinedLayers | WeightedLayers | AttendedLayers
    projector: nn.Linear
    projector_norm: nn.LayerNorm
    pooling: nn.Module
    pooled_norm: nn.Module

    def build_parts(self, config: WhisperSerConfig) -> None:
        """Adds the modules, with random weights."""
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.mixing = build_mixing(config)
        self.pools_states = config.pooling_type == "statistics"
        self.frame_width = self.mixing.width if self.pools_states else config.d_model
        # The order of the modules decides which weights a seed gives.
        self.projector = nn.Linear((2 if self.pools_states else 1) * self.mixing.width, config.d_model)
        self.projector_norm = nn.LayerNorm(config.d_model)
        self.pooling = build_pooling(config, self.mixing.width)
        self.pooled_norm = nn.LayerNorm(config.d_model) if config.layer_norm_after_pooling else nn.Identity()

    def project(self, states: torch.Tensor, packing: Packing | None) -> torch.Tensor:
        """Returns the frame vectors `(frames, frame_width)` of standardised packed states `(layers, frames, width)`.

        Args:
            packing: which utterance each frame belongs to, for the dropout in training; `None` drops nothing.
        """
        if self.pools_states:
            return self.mixing(states)
        if packing is not None and self.training and self.input_dropout.p > 0:
            ones = states.new_ones(len(packing.mask), states.shape[0], states.shape[2])
            gains = self.input_dropout(ones).transpose(0, 1)  # (layers, batch, width)
            states = states * gains.index_select(1, packing.owners)  # (layers, frames, width)
        return self.projector_norm(self.projector(self.mixing(states)))  # (frames, d_model)

    def pool(self, vectors: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the pooled vectors `(batch, d_model)`, and attention `(batch, heads, frames)` or `None`."""
        pooled, attentions = self.pooling(vectors, packing)
        if self.pools_states:
            pooled = self.projector_norm(self.projector(self.input_dropout(pooled)))
        return self.pooled_norm(pooled), attentions


class Member(HeadParts, nn.Module):
    """One head of an ensemble.

    Attributes:
        rows: the indices of the layers that this member reads, among the layers that the model reads.
    """

    def __init__(self, config: WhisperSerConfig, model_layers: list[int]) -> None:
        super().__init__()
        self.rows = [model_layers.index(layer) for layer in config.layer_indices]
        self.build_parts(config)

    def project(self, states: torch.Tensor, packing: Packing | None) -> torch.Tensor:
        """As `HeadParts.project`, given the states of all layers that the model reads."""
        own = states if len(self.rows) == len(states) else states[self.rows]  # (layers, frames, width)
        return super().project(own, packing)


class WhisperSerPreTrainedModel(PreTrainedModel):
    """Loading, freezing and weight initialisation of both models."""

    config: WhisperSerConfig
    base_model_prefix = "whisper_ser"
    main_input_name = "input_features"
    input_modalities = "audio"
    accepts_loss_kwargs = False
    _no_split_modules = ["WhisperEncoderLayer"]
    _supports_sdpa = True

    def __init__(self, config: WhisperSerConfig) -> None:
        config.check_values()
        super().__init__(config)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        new_labels: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a saved model; weights that are missing are an error.

        Args:
            pretrained_model_name_or_path: Hub id or folder.
            new_labels: start a new classifier for these labels; everything else is loaded.
            **kwargs: as in `PreTrainedModel.from_pretrained`. `ignore_mismatched_sizes=True` with another number of
                labels also starts a new classifier; other mismatches stay errors. Only safetensors are read.

        Raises:
            MissingWeightsError: weights are missing or of the wrong shape. Transformers would initialise them randomly
                and only warn.
            ValueError: `new_labels` for a model without a classifier.
        """
        if new_labels is not None and not issubclass(cls, WhisperForEmotionClassification):
            raise ValueError(
                f"{cls.__name__} has no classifier, so it takes no new_labels: load {pretrained_model_name_or_path} "
                "with WhisperForEmotionClassification."
            )
        wants_info = kwargs.pop("output_loading_info", False)
        may_resize = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs["use_safetensors"] = True  # reading a pickle can run code
        model: Any
        info: dict[str, Any]
        model, info = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path,
            *model_args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below
            **kwargs,
        )
        missing, mismatched = set(info["missing_keys"]), {key for key, *_ in info["mismatched_keys"]}
        resized = {key for key in mismatched if key.startswith("classifier.")}
        if new_labels is not None:
            model.reset_classifier(new_labels)
            missing = {key for key in missing if not key.startswith("classifier.")}
            mismatched -= resized
        elif may_resize and resized:
            model.config.temperature = 1.0  # it was that of the old classifier
            mismatched -= resized
        if unusable := sorted(missing | mismatched):
            raise MissingWeightsError(
                f"{pretrained_model_name_or_path} has no fitting weights for {', '.join(unusable)} of {cls.__name__}, "
                "which would be random. To start a new classifier, load WhisperForEmotionClassification with "
                "new_labels=[...]."
            )
        model.freeze_encoder()
        return (model, info) if wants_info else model

    def freeze_encoder(self) -> None:
        """Makes only the top `unfreeze_last_n` encoder layers trainable, none by default; positions never are."""
        encoder: Any = self.base_model.encoder
        encoder.requires_grad_(False)
        for module in _unfrozen(encoder, self.config.unfreeze_last_n):
            module.requires_grad_(True)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialises modules as PyTorch does, and positions as Whisper does."""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm | AttentivePooling | QKVPooling):
            module.reset_parameters()
        elif isinstance(module, WhisperSerEncoder):
            weight = module.embed_positions.weight
            init.copy_(weight, sinusoids(*weight.shape))
        elif isinstance(module, Standardisation):
            init.zeros_(module.mean)
            init.ones_(module.deviation)


class WhisperSerModel(HeadParts, WhisperSerPreTrainedModel):
    """Audio to one vector: encoder, channel standardisation, layer mixing, projector with LayerNorm, pooling.

    An ensemble has one mixing, projector and pooling per member.

    Args:
        config: of the model.
        with_encoder: `False` leaves the encoder out, for training on stored states: it takes neither memory nor random
            numbers. Such a model takes `encoder_hidden_states` only and cannot be saved.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # of WhisperForEmotionClassification

    def __init__(self, config: WhisperSerConfig, with_encoder: bool = True) -> None:
        super().__init__(config)
        # transformers does not pass this on to sub-configs; without it the layers would silently use eager attention.
        config.encoder_config._attn_implementation = config._attn_implementation
        self.encoder: WhisperSerEncoder
        if with_encoder:
            self.encoder = WhisperSerEncoder(config)
        else:
            self.encoder = AbsentEncoder()  # type: ignore[assignment]
        # A few channels of Whisper's states are hundreds of times larger than the rest and would dominate them.
        self.standardisation = Standardisation((len(config.layer_indices), config.encoder_config.d_model))
        if config.ensemble is None:
            self.build_parts(config)
        else:
            self.members = nn.ModuleList(Member(head, config.layer_indices) for head in config.of_heads())
        self.post_init()
        self.freeze_encoder()

    @property
    def heads(self) -> list[HeadParts]:
        """The heads: the members of the ensemble, or the model itself."""
        return [self] if self.config.ensemble is None else list(self.members)  # type: ignore[arg-type]

    @property
    def vector_width(self) -> int:
        """Width of the frame vectors of all heads side by side."""
        return sum(head.frame_width for head in self.heads)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all modules except the frozen part of the encoder, which stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        for module in _unfrozen(self.encoder, self.config.unfreeze_last_n):
            module.train(mode)
        return self

    def fit(self, utterances: Callable[[], Iterable[torch.Tensor]]) -> None:
        """Sets the means and deviations of all standardisations to those of the training utterances.

        Args:
            utterances: returns, on each call, a new iterator of their states `(layers, frames, width)`.
        """
        if self.config.channel_standardisation:
            self.standardisation.fit(utterances())
        for head in self.heads:
            if isinstance(head.pooling, StatisticsPooling):
                head.pooling.fit(self._statistics(head, utterances()))

    @torch.no_grad()
    def _statistics(self, head: HeadParts, utterances: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yields what the statistics pooling of `head` is fitted to, `(1, 2 * width)` for each utterance."""
        for states in utterances:
            packing = Packing.of(torch.ones(1, states.shape[1], dtype=torch.bool))
            vectors = head.project(self._standardised(states), None)  # (frames, width)
            yield head.pooling.statistics(vectors, packing)  # type: ignore[operator]

    def encode(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns encoder states `(batch, layers, frames, width)` and mask `(batch, frames)`; see the encoder."""
        return self.encoder(input_features, attention_mask)

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_frame_counts: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> WhisperSerModelOutput:
        """Returns the pooled vector of audio, or of states that `encode` returned.

        Args:
            input_features: log-mel `(batch, mel_frames, mels)`, with `attention_mask` `(batch, mel_frames)`.
            encoder_hidden_states: instead, states `(batch, layers, frames, width)`, with `encoder_attention_mask`
                `(batch, frames)`; without a mask every frame is real. Or without padding: the states of all utterances
                joined `(layers, frames, width)`, with `encoder_frame_counts` `(batch,)`.
            output_attentions: return `pooling_attentions`.
            output_hidden_states: return `frame_states` and `frame_mask`.

        Raises:
            ValueError: neither or both inputs, or wrong shapes.
        """
        if (input_features is None) == (encoder_hidden_states is None):
            given = "neither" if input_features is None else "both"
            raise ValueError(f"Give either input_features or encoder_hidden_states, got {given}.")
        states, mask = encoder_hidden_states, encoder_attention_mask
        if input_features is not None:
            states, mask = self.encode(input_features, attention_mask)  # (batch, layers, frames, width)
        packed, packing = self._pack(states, mask, encoder_frame_counts)  # (layers, packed frames, width)
        pooled, attentions = self._pool(self._project(packed, packing), packing)  # (batch, heads * d_model)
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return WhisperSerModelOutput(
            pooler_output=pooled,
            frame_states=states if wants_states else None,
            frame_mask=packing.mask if wants_states else None,
            pooling_attentions=attentions if output_attentions else None,
        )

    def frame_vectors(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the frame vectors that are pooled `(frames, vector_width)`, of states `(layers, frames, width)`.

        For an ensemble the vectors of the members stand side by side. In training mode nothing is dropped.
        """
        return torch.cat(self._project(states, None), dim=1)

    def pool_vectors(self, vectors: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns `pooler_output` and `pooling_attentions` of frame vectors as `frame_vectors` returns them."""
        return self._pool(vectors.split([head.frame_width for head in self.heads], dim=1), packing)

    def _pack(
        self, states: Any, mask: torch.Tensor | None, counts: torch.Tensor | None
    ) -> tuple[torch.Tensor, Packing]:
        """Returns packed states `(layers, frames, width)` and their packing.

        Args:
            states: padded `(batch, layers, frames, width)`, or already packed, with `counts`.
            mask: real frames of padded states `(batch, frames)`; by default all.
            counts: frames of each utterance in packed states `(batch,)`.
        """
        layers, width = self.standardisation.mean.shape
        shape = tuple(states.shape)
        if counts is not None:
            fits = len(shape) == 3 and shape[::2] == (layers, width)
            if not fits or counts.dim() != 1 or not len(counts) or counts.min() < 1 or counts.sum() != shape[1]:
                raise ValueError(
                    f"With encoder_frame_counts, encoder_hidden_states must be ({layers}, sum of the counts, {width}) "
                    f"with every count at least 1; got {shape} and {counts.tolist()}."
                )
            return states, Packing.of(torch.arange(int(counts.max()), device=states.device) < counts.unsqueeze(1))
        if len(shape) != 4 or shape[1::2] != (layers, width):
            raise ValueError(f"encoder_hidden_states must be (batch, {layers}, frames, {width}); got {shape}.")
        if mask is None:
            mask = torch.ones(shape[::2], dtype=torch.bool, device=states.device)
        if mask.shape != shape[::2] or not mask.bool().any(1).all():
            raise ValueError(
                f"encoder_attention_mask {tuple(mask.shape)} must have at least one real frame in each row of "
                f"encoder_hidden_states {shape}."
            )
        packing = Packing.of(mask.bool())
        # Padding is removed here and never read, not even NaN.
        return packing.pack(states.transpose(1, 2)).transpose(0, 1), packing

    def _standardised(self, states: torch.Tensor) -> torch.Tensor:
        """Returns packed states `(layers, frames, width)` as the heads read them."""
        states = states.to(self.heads[0].projector.weight.dtype)
        return self.standardisation(states) if self.config.channel_standardisation else states

    def _project(self, states: torch.Tensor, packing: Packing | None) -> list[torch.Tensor]:
        """Returns each head's frame vectors `(frames, frame_width)` of packed states `(layers, frames, width)`."""
        states = self._standardised(states)
        return [head.project(states, packing) for head in self.heads]

    def _pool(self, vectors: Sequence[torch.Tensor], packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the heads' pooled vectors `(batch, heads * d_model)` and attentions, side by side."""
        outputs = [head.pool(frames, packing) for head, frames in zip(self.heads, vectors, strict=True)]
        pooled = torch.cat([vector for vector, _ in outputs], dim=1)  # (batch, heads * d_model)
        attentions = [weights for _, weights in outputs if weights is not None]
        return pooled, torch.cat(attentions, dim=1) if attentions else None


class WhisperForEmotionClassification(WhisperSerPreTrainedModel):
    """`WhisperSerModel` with a linear classifier of emotions on the pooled vector, one per member of an ensemble.

    Args:
        config: of the model.
        with_encoder: see `WhisperSerModel`.
    """

    def __init__(self, config: WhisperSerConfig, with_encoder: bool = True) -> None:
        super().__init__(config)
        self.whisper_ser = WhisperSerModel(config, with_encoder)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = _classifier(config)
        self.post_init()
        self.freeze_encoder()
        # Saving adds AutoConfig and AutoModelForAudioClassification; the pipeline needs AutoModel too. What a loaded
        # config names, such as code of another repository, is not saved again.
        config.auto_map = {"AutoModel": "modeling_whisper_ser.WhisperForEmotionClassification"}

    @classmethod
    def from_encoder(
        cls,
        name_or_path: str | os.PathLike,
        labels: Sequence[str] | None = None,
        **fields: Any,
    ) -> Self:
        """Returns a new model, to be trained, on the encoder of a Whisper checkpoint.

        Args:
            name_or_path: Hub id such as `"openai/whisper-small"`, or a folder with the same files. Only the encoder up
                to `layer_index` is loaded.
            labels: the emotions, in the order of the logits.
            **fields: of `WhisperSerConfig`, such as `layer_index=8` or `pooling_type="attentive"`, and of the Hub
                download: `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            EncoderCheckpointError: no Whisper encoder can be loaded from there.
            ConfigError: a field is invalid or unknown.
        """
        hub = {name: fields.pop(name) for name in HUB_ARGUMENTS if name in fields}
        check_names(fields, HUB_ARGUMENTS)
        maps = {} if labels is None else _label_maps(labels)
        config = WhisperSerConfig(encoder_config=load_whisper_config(name_or_path, **hub), **{**maps, **fields})
        encoder = load_encoder(name_or_path, config, **hub)
        # The encoder that this builds is replaced, but its random numbers are drawn before the head's, so that a seed
        # gives the head that it has always given.
        model = cls(encoder.config)
        model.whisper_ser.encoder = encoder
        model.freeze_encoder()
        return model

    def reset_classifier(self, labels: Sequence[str]) -> None:
        """Replaces the classifier by a new one for `labels`."""
        for name, value in _label_maps(labels).items():
            setattr(self.config, name, value)
        for name in LABEL_FIELDS:
            setattr(self.config, name, None)
        self.config.temperature = 1.0
        self.config.check_values()
        old = self.classifiers[0].weight
        self.classifier = _classifier(self.config).to(device=old.device, dtype=old.dtype)

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_frame_counts: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> WhisperSerClassifierOutput:
        """Returns logits `(batch, num_labels)`, and the loss if `labels` `(batch,)` are given.

        The other arguments and the errors are those of `WhisperSerModel.forward`. In training with `mixup`, logits and
        loss are those of the mixed vectors.
        """
        outputs = self.whisper_ser(
            input_features=input_features,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            encoder_frame_counts=encoder_frame_counts,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        pooled, targets = outputs.pooler_output, [] if labels is None else [(1.0, labels)]
        if labels is not None and self.training and self.config.mixup:
            pooled, targets = self._mixed(pooled, labels)
        head_logits = self._head_logits(pooled)
        losses = [share * self._loss(logits, target) for logits in head_logits for share, target in targets]
        loss = torch.stack(losses).sum() if losses else None
        return WhisperSerClassifierOutput(loss=loss, logits=self._combine(head_logits), **outputs)

    @property
    def classifiers(self) -> list[nn.Linear]:
        """The classifier of each head."""
        return [self.classifier] if isinstance(self.classifier, nn.Linear) else list(self.classifier)  # type: ignore

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Returns the logits `(batch, num_labels)` of a `pooler_output`."""
        return self._combine(self._head_logits(pooled))

    def _head_logits(self, pooled: torch.Tensor) -> list[torch.Tensor]:
        """Returns the logits `(batch, num_labels)` of each head."""
        vectors = self.dropout(pooled).split(self.config.d_model, dim=1)  # of each head (batch, d_model)
        return [classifier(vector) for classifier, vector in zip(self.classifiers, vectors, strict=True)]

    def _combine(self, head_logits: list[torch.Tensor]) -> torch.Tensor:
        """Returns the logarithm of the heads' mean probabilities `(batch, num_labels)`, divided by the temperature."""
        logits = head_logits[0]
        if len(head_logits) > 1:
            log_probabilities = torch.stack(head_logits).float().log_softmax(-1)  # (heads, batch, num_labels)
            logits = (log_probabilities.logsumexp(0) - math.log(len(head_logits))).to(logits.dtype)
        return logits / self.config.temperature

    def _mixed(
        self, pooled: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[float, torch.Tensor]]]:
        """Returns each pooled vector mixed with another one of the batch, and the labels of both with their shares."""
        share = float(torch.distributions.Beta(self.config.mixup, self.config.mixup).sample())
        partners = torch.randperm(len(pooled), device=pooled.device)
        mixed = share * pooled + (1 - share) * pooled[partners]
        return mixed, [(share, labels), (1 - share, labels[partners])]

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the cross entropy `()` of one head's logits `(batch, num_labels)`."""
        weights, logits = self.config.class_weights, logits.float()
        if self.config.class_priors is not None:
            logits = logits + logits.new_tensor(self.config.class_priors).log()
        return nn.functional.cross_entropy(
            logits,
            labels,
            weight=None if weights is None else logits.new_tensor(weights),
            label_smoothing=self.config.label_smoothing,
        )


def _unfrozen(encoder: WhisperSerEncoder, last_n: int) -> list[nn.Module]:
    """Returns the trained modules of the encoder: the top layers, and the final LayerNorm if there is one."""
    if last_n == 0:
        return []
    return [*list(encoder.layers)[-last_n:], *([] if encoder.layer_norm is None else [encoder.layer_norm])]


def _classifier(config: WhisperSerConfig) -> nn.Linear | nn.ModuleList:
    heads = [nn.Linear(config.d_model, len(config.labels)) for _ in config.of_heads()]
    return heads[0] if config.ensemble is None else nn.ModuleList(heads)


def _label_maps(labels: Sequence[str]) -> dict[str, Any]:
    if isinstance(labels, str):
        raise ConfigError(f"labels={labels!r} must be a list of labels.")
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


WhisperForEmotionClassification.register_for_auto_class("AutoModelForAudioClassification")
