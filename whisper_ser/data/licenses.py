"""The licence of a trained head: the strictest among those of its training data and its base model.

No licence of a corpus mentions model weights. This package takes the conservative reading: a trained head is an
adaptation of its training data, and of the model it was fine-tuned from, and keeps all their obligations. Whisper's
encoder is not part of the head and keeps its own licence.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from whisper_ser.errors import WhisperSerError

NOTICE, ATTRIBUTION, NON_COMMERCIAL, SHARE_ALIKE = "notice", "attribution", "non-commercial", "share-alike"
OBLIGATIONS: dict[str, frozenset[str]] = {
    "cc0-1.0": frozenset(),
    "apache-2.0": frozenset({NOTICE}),
    "mit": frozenset({NOTICE}),
    "cc-by-4.0": frozenset({NOTICE, ATTRIBUTION}),
    "cc-by-sa-4.0": frozenset({NOTICE, ATTRIBUTION, SHARE_ALIKE}),
    "odbl": frozenset({NOTICE, ATTRIBUTION, SHARE_ALIKE}),
    "cc-by-nc-4.0": frozenset({NOTICE, ATTRIBUTION, NON_COMMERCIAL}),
    "cc-by-nc-sa-4.0": frozenset({NOTICE, ATTRIBUTION, NON_COMMERCIAL, SHARE_ALIKE}),
}
"""What each licence requires of an adaptation. Nothing is derived from a licence that is not in this table: it forbids
adaptations (cc-by-nc-nd-4.0), depends on an agreement, or has not been reviewed."""
OTHER_HUB_LICENSES = ("agpl-3.0", "bsd-3-clause", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "gpl-3.0", "odc-by", "openrail")
"""Other common values of `license` in the metadata of a card (hf.co/docs/hub/repositories-licenses)."""
CODE_LICENSE = "apache-2.0"
"""The licence of this package, and of a head whose data require no more."""


class LicenseError(WhisperSerError, ValueError):
    """A licence that violates the obligations of the data, or text that does not name a licence."""


@dataclass(frozen=True)
class HeadLicense:
    """The licence of a trained head. A saved model has it in `config.json`, as `dataclasses.asdict` makes it.

    Attributes:
        id: of the Hub, such as `cc-by-nc-sa-4.0`; `None` where none can be derived and nobody has stated one.
        sources: the licence of each corpus, or model, that the head learnt from, by its name; `None` where unknown.
    """

    id: str | None
    sources: dict[str, str | None] = field(default_factory=dict)

    @property
    def stated(self) -> bool:
        """Whether a person stated the licence, rather than it being derived."""
        return self.id is not None and self.id != derive(self.sources.values())

    @property
    def card_metadata(self) -> dict[str, str]:
        """The fields of a model card's metadata, in values that the Hub accepts."""
        if self.id is None:
            return {}
        if self.id in OBLIGATIONS or self.id in OTHER_HUB_LICENSES:
            return {"license": self.id}
        return {"license": "other", "license_name": self.id}


def covers(license_id: str, source: str) -> bool:
    """Whether an adaptation of something under `source`, of `OBLIGATIONS`, may be released under `license_id`.

    Share-alike requires the same licence: CC BY-SA, CC BY-NC-SA and ODbL exclude each other.
    """
    if SHARE_ALIKE in OBLIGATIONS[source]:
        return license_id == source
    return OBLIGATIONS[source] <= OBLIGATIONS.get(license_id, frozenset())


def strictest(licenses: Iterable[str | None]) -> str | None:
    """Returns the one of these licences that covers all others, or `None`; also if one is not in `OBLIGATIONS`."""
    found = list(licenses)
    if not all(one in OBLIGATIONS for one in found):
        return None
    return next((one for one in found if one and all(covers(one, other) for other in found if other)), None)


def derive(sources: Iterable[str | None]) -> str | None:
    """Returns the licence that follows for a head from those of its sources, or `None`; at least `CODE_LICENSE`."""
    return strictest([CODE_LICENSE, *sources])


def head_license(sources: Mapping[str, str | None], stated: str | None = None) -> HeadLicense:
    """Returns the licence of a head that learnt from `sources`.

    A stated licence must cover every source whose obligations are known: nobody can waive the terms of someone else's
    corpus, while a stricter licence is always allowed. It is accepted unchecked where nothing can be derived: for data
    of the user's own, for corpora that are licensed by agreement or forbid adaptations (the user is responsible for
    having permission), and for corpora whose share-alike licences exclude each other. The card then says that it was
    stated.
    Laxer terms that a publisher granted to the user cannot be stated, because they cannot be checked.

    Args:
        sources: licence of each corpus or model, `None` where unknown.
        stated: by the user, in any case (`--license`).

    Raises:
        LicenseError: `stated` does not name a licence, or is laxer than a source.
    """
    sources = dict(sources)
    if stated is None:
        return HeadLicense(derive(sources.values()), sources)
    stated = stated.lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", stated):
        raise LicenseError(
            f"--license {stated!r} is not the identifier of a licence: expected one of the Hub, such as "
            f"{', '.join(OBLIGATIONS)}, or a name of letters, digits, dots and dashes."
        )
    known = {name: one for name, one in sources.items() if one in OBLIGATIONS}
    common = strictest(known.values())
    violated = [f"{name} ({one})" for name, one in known.items() if one and not covers(stated, one)]
    if common and violated:
        raise LicenseError(
            f"--license {stated} does not keep the terms of what the model learnt from: {', '.join(violated)}. "
            f"State {common} or leave --license out."
        )
    return HeadLicense(stated, sources)


def read_license(config: Any) -> HeadLicense | None:
    """Returns the licence in the config of a model, or `None` where there is none (0.1.0) or it is damaged."""
    found: Any = getattr(config, "license", None)
    try:
        read = HeadLicense(**found)
        values = [read.id, *read.sources.values()]
        valid = all(one is None or isinstance(one, str) for one in values)
    except (TypeError, AttributeError):
        return None
    return read if valid else None


def store_license(config: Any, license: HeadLicense) -> None:
    """Stores the licence in the config of a model, where saving, fine-tuning, adaptation and export keep it."""
    config.license = asdict(license)


def inherit(sources: Mapping[str, str | None], base: HeadLicense | None, name: str) -> dict[str, str | None]:
    """Returns the sources of a head that was fine-tuned from another model: `sources` and those of that model.

    Args:
        sources: of the fine-tuning.
        base: licence of the model; `None` where it does not say.
        name: of the model; if its licence was stated or is unknown, the model itself counts as a source.
    """
    if base is None:
        inherited: dict[str, str | None] = {f"the model {name}": None}
    elif base.stated:
        inherited = {f"{', '.join(base.sources) or f'the model {name}'} (as stated)": base.id}
    else:
        inherited = base.sources
    # The same name with another licence is another corpus; only one could be kept.
    clashes = {source for source in inherited if sources.get(source, inherited[source]) != inherited[source]}
    return {**sources, **inherited, **dict.fromkeys(clashes)}
