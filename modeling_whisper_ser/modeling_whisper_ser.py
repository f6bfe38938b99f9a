"""Speech emotion recognition from a frozen Whisper encoder: pooled vector, and emotion classification."""

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.whisper.modeling_whisper import sinusoids
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .checkpoint_whisper_ser import HUB_ARGUMENTS, EncoderCheckpointError, open_encoder
from .configuration_whisper_ser import OF_THE_LABELS, ConfigError, WhisperSerConfig, refuse_unknown
from .encoder_whisper_ser import WhisperSerEncoder
from .head_whisper_ser import HeadParts, Member
from .packed_encoder_whisper_ser import pack
from .pooling_whisper_ser import AttentivePooling, Packing, QKVPooling, StatisticsPooling

SAVED_BY_ITSELF = ("AutoConfig", "AutoModelForAudioClassification")
"""What saving sets in the config's `auto_map`."""


class MissingWeightsError(ValueError):
    """A saved model that lacks weights, or has them in another shape, and would answer at random."""


@dataclass
class WhisperSerModelOutput(ModelOutput):
    """What `WhisperSerModel` returns.

    Args:
        pooler_output: the utterance as one vector `(batch, d_model)`; of an ensemble the members' vectors side by
            side, `(batch, members * d_model)`, as each has a space of its own.
        frame_states: the encoder states read `(batch, layers, frames, width)`, on request.
        frame_mask: which of these frames are real `(batch, frames)`, on request.
        pooling_attentions: attention of the pooling heads over time `(batch, heads, frames)`, on request; of an
            ensemble the heads of all members that attend.
    """

    pooler_output: torch.Tensor | None = None
    frame_states: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None
    pooling_attentions: torch.Tensor | None = None


@dataclass
class WhisperSerClassifierOutput(ModelOutput):
    """What `WhisperForEmotionClassification` returns: `WhisperSerModelOutput`'s fields and two more.

    Args:
        loss: cross entropy, when labels were given; of an ensemble the sum of each member's own. It knows nothing
            of the temperature.
        logits: `(batch, num_labels)`, divided by the temperature; of an ensemble the logarithm of the members' mean
            probabilities.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    frame_states: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None
    pooling_attentions: torch.Tensor | None = None


class ChannelStandardisation(nn.Module):
    """Mean 0 and deviation 1 for every channel of the encoder states; the identity until it is fitted.

    A few channels of Whisper's states are hundreds of times larger than the rest and drown them otherwise.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        shape = (len(config.layer_indices), config.encoder_config.d_model)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    @torch.no_grad()
    def fit(self, utterances: Iterable[torch.Tensor]) -> None:
        """Takes mean and deviation from states `(layers, frames, width)` of each utterance, all frames alike."""
        count, mean, squares = 0, torch.zeros(self.mean.shape).double(), torch.zeros(self.mean.shape).double()
        for states in utterances:
            # Moments are joined utterance by utterance (Chan et al. 1979): stable where a mean dwarfs its deviation.
            variance, centre = torch.var_mean(states.float(), dim=1, correction=0)
            frames = states.shape[1]
            count += frames
            distance = centre.double() - mean
            mean += distance * (frames / count)
            squares += frames * (variance.double() + distance.square() * (1 - frames / count))
        if count == 0:
            raise ValueError("Channel standardisation needs the states of at least one utterance.")
        deviation = (squares / count).sqrt()
        self.mean.copy_(mean)
        # A channel that never moves says nothing; dividing by its deviation would only magnify rounding.
        self.deviation.copy_(deviation.clamp(min=1e-5))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Standardises `(layers, frames, width)`."""
        scale = self.deviation.reciprocal()
        return torch.addcmul((-self.mean * scale).unsqueeze(1), states, scale.unsqueeze(1))


class WhisperSerPreTrainedModel(PreTrainedModel):
    """Loading, saving and freezing, as both models do it."""

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
        """Loads a saved model, all of it, or raises.

        Args:
            pretrained_model_name_or_path: Hub id or folder.
            new_labels: start a new classifier for these labels on purpose; the rest is loaded.
            **kwargs: as in `PreTrainedModel.from_pretrained`. `ignore_mismatched_sizes=True` with another number of
                labels starts a new classifier, too, and nothing else. Weights are read from safetensors alone.

        Raises:
            MissingWeightsError: weights of the model are missing or of the wrong shape. Transformers would start
                them at random and only warn.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        # A pickle runs code when it is read.
        kwargs["use_safetensors"] = True
        new_classifier = kwargs.pop("ignore_mismatched_sizes", False) or new_labels is not None
        model: Any
        info: dict[str, Any]
        model, info = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path,
            *model_args,
            output_loading_info=True,
            # Not ignored: they are named in the error below, in words.
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        missing, mismatched = set(info["missing_keys"]), {key for key, *_ in info["mismatched_keys"]}
        if new_classifier:
            mismatched = {key for key in mismatched if not key.startswith("classifier.")}
        if new_labels is not None:
            missing = {key for key in missing if not key.startswith("classifier.")}
            model.reset_classifier(new_labels)
        elif any(key.startswith("classifier.") for key, *_ in info["mismatched_keys"]):
            model.config.temperature = 1.0
        lost = missing | mismatched
        if lost:
            raise MissingWeightsError(
                f"{pretrained_model_name_or_path} has no fitting weights for {', '.join(sorted(lost))}, and would "
                f"answer at random there. {cls.__name__} cannot be loaded from it; to start a new classifier on "
                "purpose, pass new_labels=[...]."
            )
        model.freeze_encoder()
        return (model, info) if wants_info else model

    def packed(self, precision: str = "float32", recordings: Sequence[np.ndarray] | None = None) -> Self:
        """Returns a copy for use on a CPU, faster, that can be neither saved nor moved; this model stays as it is.

        Args:
            precision: `"float32"`: the same answers but for rounding. `"int8"`: about twice as fast again, encoder
                states off by a few percent; on processors with AVX-512 VNNI.
            recordings: what int8 learns the size of numbers from, instead of synthetic voices: mono waveforms
                `(samples,)` at 16 kHz.

        Raises:
            PackingError: this processor cannot, or this model is not float32 on a CPU.
        """
        encoder: Any = self.base_model.encoder
        fast = pack(encoder, precision, recordings)
        # What the memo holds counts as copied: everything but the encoder is.
        copied = copy.deepcopy(self, {id(encoder): fast})
        copied.config.unfreeze_last_n = 0
        fast.config = copied.config
        return copied.eval()

    def freeze_encoder(self) -> None:
        """Leaves only the top `unfreeze_last_n` encoder layers trainable, none by default; positions never are."""
        encoder: Any = self.base_model.encoder
        encoder.requires_grad_(False)
        for module in _unfrozen(encoder, self.config.unfreeze_last_n):
            module.requires_grad_(True)

    def _init_weights(self, module: nn.Module) -> None:
        """Starts modules as PyTorch does, and positions as Whisper does."""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm | AttentivePooling | QKVPooling):
            module.reset_parameters()
        elif isinstance(module, WhisperSerEncoder):
            weight = module.embed_positions.weight
            init.copy_(weight, sinusoids(*weight.shape))
        elif isinstance(module, ChannelStandardisation | StatisticsPooling):
            init.zeros_(module.mean)
            init.ones_(module.deviation)


class WhisperSerModel(HeadParts, WhisperSerPreTrainedModel):
    """Audio to one vector: encoder, channel standardisation, layer mixing, projector with LayerNorm, pooling.

    With an ensemble everything behind the standardisation is there once for each member.
    """

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__(config)
        # Sub-configs are not told; without this the layers would silently use eager attention.
        config.encoder_config._attn_implementation = config._attn_implementation
        self.encoder = WhisperSerEncoder(config)
        self.standardisation = ChannelStandardisation(config)
        if config.ensemble is None:
            self.build_parts(config)
        else:
            self.members = nn.ModuleList(Member(of_member, config.layer_indices) for of_member in config.of_heads())
        self.post_init()
        self.freeze_encoder()

    @property
    def heads(self) -> list[HeadParts]:
        """The heads: the members of the ensemble, or the model itself."""
        return [self] if self.config.ensemble is None else list(self.members)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> Self:
        """Sets training mode everywhere but in the frozen part of the encoder."""
        self.training = mode
        for module in self.children():
            if module is not self.encoder:
                module.train(mode)
            elif module.training or self.config.unfreeze_last_n:
                module.eval()
        for module in _unfrozen(self.encoder, self.config.unfreeze_last_n):
            module.train(mode)
        return self

    def fit(self, utterances: Callable[[], Iterable[torch.Tensor]]) -> None:
        """Takes the means and deviations that the model standardises with from utterances that it will be trained on.

        Args:
            utterances: returns their states `(layers, frames, width)` from the first on, each time it is called.
        """
        if self.config.channel_standardisation:
            self.standardisation.fit(utterances())
        for head in self.heads:
            if isinstance(head.pooling, StatisticsPooling):
                head.pooling.fit(self._statistics(head, head.pooling, utterances()))

    @torch.no_grad()
    def _statistics(
        self, head: HeadParts, pooling: StatisticsPooling, utterances: Iterable[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        for states in utterances:
            states = states.float()
            if self.config.channel_standardisation:
                states = self.standardisation(states)
            packing = Packing.of(torch.ones(1, states.shape[1], dtype=torch.bool))
            yield pooling.statistics(head.project(states, packing), packing)

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
        """Returns the pooled vector, from audio or from states that `encode` gave before.

        Args:
            input_features: log-mel `(batch, mel_frames, mels)`, with `attention_mask` `(batch, mel_frames)`.
            encoder_hidden_states: instead, states `(batch, layers, frames, width)`, with `encoder_attention_mask`
                `(batch, frames)`. A mask left out means that every frame is real. Or without padding: those of all
                utterances joined `(layers, frames, width)`, with `encoder_frame_counts` `(batch,)`.
            output_attentions: return `pooling_attentions`.
            output_hidden_states: return `frame_states` and `frame_mask`.

        Raises:
            ValueError: neither or both inputs, or shapes that do not fit.
        """
        states, mask, packed, packing = self._read(
            input_features, attention_mask, encoder_hidden_states, encoder_attention_mask, encoder_frame_counts
        )
        pooled, attentions = self._pool(self._project(packed, packing), packing)
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return WhisperSerModelOutput(
            pooler_output=pooled,
            frame_states=states if wants_states else None,
            frame_mask=mask if wants_states else None,
            pooling_attentions=attentions if output_attentions else None,
        )

    def frame_vectors(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_frame_counts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Packing]:
        """Returns what is pooled, packed frames `(frames, frame_width)`, and whose they are; called as `forward` is.

        Those of an ensemble are the members' side by side.
        """
        _, _, packed, packing = self._read(
            input_features, attention_mask, encoder_hidden_states, encoder_attention_mask, encoder_frame_counts
        )
        return torch.cat(self._project(packed, packing), dim=1), packing

    def pool_vectors(self, vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns `pooler_output` of vectors as `frame_vectors` returns them, of any stretch of frames."""
        return self._pool(vectors.split([head.frame_width for head in self.heads], dim=1), packing)[0]

    def _read(
        self,
        input_features: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor | None,
        encoder_attention_mask: torch.Tensor | None,
        encoder_frame_counts: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, Packing]:
        """Returns states `(batch, layers, frames, width)` if they came so, their mask, and them packed."""
        if input_features is not None and encoder_hidden_states is not None:
            raise ValueError("Give either input_features or encoder_hidden_states, got both.")
        states: torch.Tensor | None = None
        if input_features is not None:
            states, mask = self.encode(input_features, attention_mask)
        elif encoder_hidden_states is None:
            raise ValueError("Give either input_features or encoder_hidden_states, got none of them.")
        elif encoder_frame_counts is None:
            states, mask = encoder_hidden_states, self._checked_mask(encoder_hidden_states, encoder_attention_mask)
        else:
            packed, mask = encoder_hidden_states, self._mask_of_counts(encoder_hidden_states, encoder_frame_counts)
        packing = Packing.of(mask)
        if states is not None:
            # Only real frames go on: whatever stands behind an utterance is not read, NaN included.
            packed = packing.pack(states.transpose(1, 2)).transpose(0, 1)
        return states, mask, packed, packing

    def _project(self, states: torch.Tensor, packing: Packing) -> list[torch.Tensor]:
        """Returns each head's frame vectors `(frames, frame_width)` of packed states `(layers, frames, width)`."""
        states = states.to(self.heads[0].projector.weight.dtype)
        standardised = self.config.channel_standardisation
        if standardised:
            states = self.standardisation(states)
        owned = standardised and len(self.heads) == 1
        return [head.project(states, packing, owned) for head in self.heads]

    def _pool(self, vectors: Sequence[torch.Tensor], packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the heads' pooled vectors `(batch, heads * d_model)` and attentions, side by side."""
        pooled = [head.pool(of_head, packing) for head, of_head in zip(self.heads, vectors, strict=True)]
        attentions = [of_head for _, of_head in pooled if of_head is not None]
        return torch.cat([one for one, _ in pooled], dim=1), torch.cat(attentions, dim=1) if attentions else None

    def _mask_of_counts(self, states: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        layers, width = self.standardisation.mean.shape
        fits = states.dim() == 3 and states.shape[0] == layers and states.shape[2] == width
        if not fits or counts.dim() != 1 or not len(counts) or counts.min() < 1 or counts.sum() != states.shape[1]:
            raise ValueError(
                f"With encoder_frame_counts, encoder_hidden_states must be ({layers}, sum of the counts, {width}), "
                f"every count at least 1; got {tuple(states.shape)} and {counts.tolist()}."
            )
        return torch.arange(int(counts.max()), device=states.device) < counts.unsqueeze(1)

    def _checked_mask(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        layers, width = self.standardisation.mean.shape
        if states.dim() != 4 or states.shape[1] != layers or states.shape[3] != width:
            raise ValueError(
                f"encoder_hidden_states must be (batch, {layers}, frames, {width}); got {tuple(states.shape)}."
            )
        if mask is None:
            mask = torch.ones(states.shape[0], states.shape[2], dtype=torch.bool, device=states.device)
        if mask.shape != (states.shape[0], states.shape[2]) or not mask.bool().any(1).all():
            raise ValueError(
                f"encoder_attention_mask {tuple(mask.shape)} must mark at least one real frame in each row of "
                f"encoder_hidden_states {tuple(states.shape)}."
            )
        return mask.bool()


class WhisperForEmotionClassification(WhisperSerPreTrainedModel):
    """`WhisperSerModel` with a linear classifier of emotions on the pooled vector, or on that of each member."""

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__(config)
        self.whisper_ser = WhisperSerModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = _classifier(config)
        self.post_init()
        self.freeze_encoder()
        # Saving writes one name a class by itself; the pipeline asks for the second too.
        name = f"{WhisperForEmotionClassification.__module__.rsplit('.', 1)[-1]}.WhisperForEmotionClassification"
        # Of what else a loaded config names, such as code of other repositories, nothing is passed on.
        found = getattr(config, "auto_map", None) or {}
        config.auto_map = {kind: found[kind] for kind in SAVED_BY_ITSELF if kind in found} | {"AutoModel": name}

    @classmethod
    def from_encoder(
        cls,
        name_or_path: str | os.PathLike,
        labels: Sequence[str] | None = None,
        **fields: Any,
    ) -> Self:
        """Returns a new model, to be trained, on the encoder of a Whisper checkpoint.

        Args:
            name_or_path: Hub id such as `"openai/whisper-small"`, a folder laid out like one, or a CTranslate2
                folder. Only the encoder tensors up to `layer_index` are read.
            labels: the emotions, in the order of the logits.
            **fields: of `WhisperSerConfig`, such as `layer_index=8` or `pooling_type="attentive"`, and of the Hub
                download: `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            EncoderCheckpointError: no Whisper encoder can be read there.
            ConfigError: a field is wrong or unknown.
        """
        hub = {name: fields.pop(name) for name in HUB_ARGUMENTS if name in fields}
        refuse_unknown(fields, HUB_ARGUMENTS)
        checkpoint = open_encoder(name_or_path, **hub)
        maps = {} if labels is None else _label_maps(labels)
        model = cls(WhisperSerConfig(encoder_config=checkpoint.config, **{**maps, **fields}))
        encoder = model.whisper_ser.encoder
        try:
            encoder.load_state_dict(checkpoint.read(encoder.state_dict()))
        except RuntimeError as error:
            raise EncoderCheckpointError(
                f"The weights of {name_or_path} are not those of its config: {error}"
            ) from error
        return model

    def reset_classifier(self, labels: Sequence[str]) -> None:
        """Starts a new classifier for `labels`; everything else stays."""
        for name, value in _label_maps(labels).items():
            setattr(self.config, name, value)
        for name in OF_THE_LABELS:
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
        """Returns logits `(batch, num_labels)`, and the loss where `labels` `(batch,)` are given.

        The other arguments are those of `WhisperSerModel.forward`, and so are the errors. In training with `mixup`,
        logits and loss are those of the mixed vectors.
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
        of_heads = self._logits_of_heads(pooled)
        losses = [share * self._loss(logits, target) for logits in of_heads for share, target in targets]
        loss = torch.stack(losses).sum() if losses else None
        return WhisperSerClassifierOutput(loss=loss, logits=self._joined(of_heads), **outputs)

    @property
    def classifiers(self) -> list[nn.Linear]:
        """The classifier of each head."""
        return [self.classifier] if isinstance(self.classifier, nn.Linear) else list(self.classifier)  # type: ignore

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Returns the logits `(batch, num_labels)` of pooled vectors as they stand in `pooler_output`."""
        return self._joined(self._logits_of_heads(pooled))

    def _logits_of_heads(self, pooled: torch.Tensor) -> list[torch.Tensor]:
        vectors = self.dropout(pooled).split(self.config.d_model, dim=1)
        return [classifier(vector) for classifier, vector in zip(self.classifiers, vectors, strict=True)]

    def _joined(self, of_heads: list[torch.Tensor]) -> torch.Tensor:
        """Returns the logits of the mean of the heads' probabilities, `(batch, num_labels)`, over the temperature."""
        logits = of_heads[0]
        if len(of_heads) > 1:
            logarithms = torch.stack(of_heads).float().log_softmax(-1)
            logits = (logarithms.logsumexp(0) - math.log(len(of_heads))).to(logits.dtype)
        return logits / self.config.temperature

    def _mixed(
        self, pooled: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[float, torch.Tensor]]]:
        """Returns each pooled vector mixed with another of the batch, and both labels with their shares."""
        share = float(torch.distributions.Beta(self.config.mixup, self.config.mixup).sample())
        partners = torch.randperm(len(pooled), device=pooled.device)
        mixed = share * pooled + (1 - share) * pooled[partners]
        return mixed, [(share, labels), (1 - share, labels[partners])]

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weights, logits = self.config.class_weights, logits.float()
        if self.config.class_priors is not None:
            logits = logits + logits.new_tensor(self.config.class_priors).log()
        return nn.functional.cross_entropy(
            logits,
            labels,
            weight=None if weights is None else torch.tensor(weights, dtype=torch.float32, device=logits.device),
            label_smoothing=self.config.label_smoothing,
        )


def _unfrozen(encoder: WhisperSerEncoder, last_n: int) -> list[nn.Module]:
    """Returns the modules of the encoder that are trained: the top layers, and the LayerNorm above them."""
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
