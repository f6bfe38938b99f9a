"""The licence of a trained head: what follows from its corpora, and what a user may state."""

from itertools import permutations
from types import SimpleNamespace

import pytest

from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.data.licenses import (
    OBLIGATIONS,
    HeadLicense,
    LicenseError,
    derive,
    head_license,
    inherit,
    read_license,
    store_license,
    strictest,
)

# What the publishers' own pages allow, as of the release of this package.
OF_A_HEAD_ON = {
    "ravdess": "cc-by-nc-sa-4.0",
    "emodb": "apache-2.0",
    "crema_d": "odbl",
    "tess": None,
    "savee": None,
    "iemocap": None,
    "shemo": None,
    "meld": None,
}


def test_every_corpus_has_an_entry_here():
    assert OF_A_HEAD_ON.keys() == CORPORA.keys()


@pytest.mark.parametrize("name", CORPORA)
def test_a_head_has_the_licence_that_its_corpus_allows(name):
    license = head_license({name: CORPORA[name].license_id})
    assert license.id == OF_A_HEAD_ON[name] and not license.stated


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        # wiki.creativecommons.org/wiki/Wiki/cc_license_compatibility; ODbL 1.0, section 4.4
        (["cc-by-4.0", "cc-by-4.0"], "cc-by-4.0"),
        (["cc-by-4.0", "cc-by-sa-4.0"], "cc-by-sa-4.0"),
        (["cc-by-4.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["cc-by-4.0", "cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0"),
        (["cc-by-nc-4.0", "cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0"),
        (["cc-by-sa-4.0", "cc-by-nc-4.0"], None),
        (["cc-by-sa-4.0", "cc-by-nc-sa-4.0"], None),
        (["cc-by-sa-4.0", "odbl"], None),
        (["cc-by-nc-4.0", "odbl"], None),
        (["cc-by-nc-sa-4.0", "odbl"], None),
        (["cc0-1.0", "cc-by-4.0", "odbl"], "odbl"),
        (["cc0-1.0", "mit"], "apache-2.0"),
        (["cc-by-4.0", "cc-by-nc-nd-4.0"], None),
        (["cc-by-4.0", None], None),
        ([], "apache-2.0"),
    ],
)
def test_the_strictest_licence_that_keeps_all_terms_whatever_the_order(sources, expected):
    assert {derive(order) for order in permutations(sources)} == {expected}


@pytest.mark.parametrize("one", OBLIGATIONS)
def test_a_licence_covers_itself(one):
    assert strictest([one, one]) == one


@pytest.mark.parametrize("stated", ["cc0-1.0", "mit", "CC-BY-4.0", "odbl", "cc-by-nc-nd-4.0", "gpl-3.0"])
def test_for_ones_own_data_and_data_without_obligations_a_licence_is_taken_as_stated(stated):
    for sources in ({"mine": None}, {"emodb": "cc0-1.0"}, {"tess": "cc-by-nc-nd-4.0"}):
        license = head_license(sources, stated)
        assert license.id == stated.lower() and license.stated and license.sources == sources


@pytest.mark.parametrize(
    "stated", ["apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-nd-4.0", "mine"]
)
@pytest.mark.parametrize("others", [{}, {"mine": None}, {"emodb": "cc0-1.0"}])
def test_a_stated_licence_cannot_drop_the_terms_of_a_corpus(stated, others):
    with pytest.raises(
        LicenseError, match=rf"{stated} does not keep .*ravdess \(cc-by-nc-sa-4.0\).*State cc-by-nc-sa"
    ):
        head_license({"ravdess": "cc-by-nc-sa-4.0", **others}, stated)


def test_a_stated_licence_may_be_stricter_and_may_repeat_what_follows():
    assert head_license({"a": "cc-by-4.0"}, "cc-by-nc-4.0") == HeadLicense("cc-by-nc-4.0", {"a": "cc-by-4.0"})
    assert not head_license({"ravdess": "cc-by-nc-sa-4.0"}, "cc-by-nc-sa-4.0").stated
    both = {"ravdess": "cc-by-nc-sa-4.0", "mine": None}
    assert head_license(both).id is None and head_license(both, "cc-by-nc-sa-4.0").id == "cc-by-nc-sa-4.0"


def test_where_share_alike_licences_exclude_each_other_only_a_statement_helps():
    sources = {"crema_d": "odbl", "ravdess": "cc-by-nc-sa-4.0"}
    assert head_license(sources).id is None
    agreed = head_license(sources, "cc-by-nc-sa-4.0")
    assert agreed.id == "cc-by-nc-sa-4.0" and agreed.stated


@pytest.mark.parametrize("stated", ["", "CC BY 4.0", "-", "license: mit", "a\nb"])
def test_what_is_no_identifier_is_refused(stated):
    with pytest.raises(LicenseError, match="not the identifier of a licence"):
        head_license({"mine": None}, stated)


def test_metadata_of_a_card_has_only_values_that_the_hub_knows():
    assert HeadLicense("odbl").card_metadata == {"license": "odbl"}
    assert HeadLicense("gpl-3.0").card_metadata == {"license": "gpl-3.0"}
    assert HeadLicense("our-agreement").card_metadata == {"license": "other", "license_name": "our-agreement"}
    assert HeadLicense(None).card_metadata == {}


def test_a_fine_tuned_head_keeps_the_terms_of_the_model_it_started_from():
    base = head_license({"ravdess": "cc-by-nc-sa-4.0"})
    tuned = head_license(inherit({"emodb": "cc0-1.0"}, base, "base"))
    assert tuned == HeadLicense("cc-by-nc-sa-4.0", {"emodb": "cc0-1.0", "ravdess": "cc-by-nc-sa-4.0"})
    again = head_license(inherit({"crema_d": "odbl"}, tuned, "tuned"))
    assert again.id is None and again.sources.keys() == {"emodb", "ravdess", "crema_d"}


def test_a_stated_licence_is_inherited_as_a_term_of_its_own():
    base = head_license({"mine": None}, "cc-by-nc-4.0")
    sources = inherit({"emodb": "cc0-1.0"}, base, "base")
    assert head_license(sources).id == "cc-by-nc-4.0" and "mine (as stated)" in sources
    with pytest.raises(LicenseError, match=r"mine \(as stated\) \(cc-by-nc-4.0\)"):
        head_license(sources, "apache-2.0")
    custom = head_license({"mine": None}, "our-agreement")
    assert head_license(inherit({"emodb": "cc0-1.0"}, custom, "base")).id is None


def test_of_an_unknown_model_nothing_follows():
    for base in (None, HeadLicense(None, {"savee": None})):
        assert head_license(inherit({"emodb": "cc0-1.0"}, base, "user/old")).id is None
    assert inherit({"emodb": "cc0-1.0"}, None, "user/old") == {"emodb": "cc0-1.0", "the model user/old": None}


def test_two_corpora_of_one_name_are_not_taken_for_one():
    mine = HeadLicense(None, {"ravdess": None})
    assert head_license(inherit({"ravdess": "cc-by-nc-sa-4.0"}, mine, "base")).id is None
    published = head_license({"ravdess": "cc-by-nc-sa-4.0"})
    assert head_license(inherit({"ravdess": None}, published, "base")).id is None


def test_a_config_keeps_the_licence_and_a_damaged_one_is_unknown():
    config = SimpleNamespace()
    assert read_license(config) is None
    license = head_license({"ravdess": "cc-by-nc-sa-4.0", "mine": None})
    store_license(config, license)
    assert read_license(config) == license
    for damaged in ("mit", [], {"id": 1}, {"id": "mit", "sources": []}, {"id": "mit", "sources": {"a": 1}}, {"a": 1}):
        assert read_license(SimpleNamespace(license=damaged)) is None
