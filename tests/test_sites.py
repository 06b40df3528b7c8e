"""Sites: their names in three styles, their order, and patterns over a model's sites."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inversionview.core.errors import InversionViewError, UnknownSiteError
from inversionview.model.sites.kind import Counts
from inversionview.model.sites.patterns import expand, find_site
from inversionview.model.sites.site import Site, Sites, all_sites

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

layers = st.integers(0, 200)
any_site = st.one_of(
    st.builds(Site, layers, st.sampled_from(["pre", "mid", "post", "mlp"])),
    st.builds(Site, layers, st.just("head"), st.integers(0, 200)),
)


def names(sites: list[Site]) -> list[str]:
    return [site.short for site in sites]


@given(any_site)
def test_every_style_of_name_leads_back_to_the_site(site: Site) -> None:
    for name in (site.short, site.hook, site.latex, f"${site.latex}$", f" {site.short} ", str(site)):
        assert Site.parse(name) == site
    assert Site.parse(site) is site


@given(any_site, any_site)
def test_different_sites_have_different_names(one: Site, other: Site) -> None:
    for style in ("short", "hook", "latex"):
        assert (getattr(one, style) == getattr(other, style)) == (one == other)


@pytest.mark.parametrize(
    ("site", "short", "hook", "latex"),
    [
        (Site(0, "pre"), "x0.pre", "blocks.0.hook_resid_pre", "x^{0,pre}"),
        (Site(1, "mid"), "x1.mid", "blocks.1.hook_resid_mid", "x^{1,mid}"),
        (Site(12, "post"), "x12.post", "blocks.12.hook_resid_post", "x^{12,post}"),
        (Site(0, "head", 3), "a0.3", "blocks.0.attn.hook_result[3]", "a^{0,3}"),
        (Site(9, "head", 10), "a9.10", "blocks.9.attn.hook_result[10]", "a^{9,10}"),
        (Site(1, "mlp"), "m1", "blocks.1.hook_mlp_out", "m^{1}"),
    ],
)
def test_names_are_those_of_the_definitions(site: Site, short: str, hook: str, latex: str) -> None:
    assert (site.short, site.hook, site.latex) == (short, hook, latex)


def test_the_order_is_the_order_of_computation() -> None:
    sites = all_sites(Counts((2, 1)))
    assert names(sites) == ["x0.pre", "a0.0", "a0.1", "x0.mid", "m0", "x0.post", "x1.pre", "a1.0", "x1.mid", "m1", "x1.post"]
    shuffled = [sites[place] for place in (7, 2, 10, 0, 5, 1, 9, 3, 8, 4, 6)]
    assert sorted(shuffled) == sites


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.booleans())
def test_a_model_has_each_site_once_and_in_order(heads: list[int], parallel: bool) -> None:
    sites = all_sites(Counts(heads), parallel=parallel)
    assert len(sites) == len(set(sites)) == sum(heads) + len(heads) * (3 if parallel else 4)
    assert all(one < other for one, other in pairwise(sites))


def test_a_parallel_model_has_no_residual_stream_between_attention_and_mlp() -> None:
    sites = all_sites(Counts((2, 2)), parallel=True)
    assert names(sites) == ["x0.pre", "a0.0", "a0.1", "m0", "x0.post", "x1.pre", "a1.0", "a1.1", "m1", "x1.post"]
    with pytest.raises(UnknownSiteError):
        expand("x*.mid", sites)
    with pytest.raises(UnknownSiteError):
        find_site("x0.mid", sites)


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        ("a*.*,x*.post", ["a0.0", "a0.1", "x0.post", "a1.0", "a1.1", "x1.post"]),
        ("x*.post, a*.*", ["a0.0", "a0.1", "x0.post", "a1.0", "a1.1", "x1.post"]),
        (["x*.post", "a*.*"], ["a0.0", "a0.1", "x0.post", "a1.0", "a1.1", "x1.post"]),
        ("a1.*", ["a1.0", "a1.1"]),
        ("a*.1,a1.*", ["a0.1", "a1.0", "a1.1"]),
        ("m*", ["m0", "m1"]),
        ("x0.*", ["x0.pre", "x0.mid", "x0.post"]),
        ("blocks.0.attn.hook_result[1]", ["a0.1"]),
        ("a^{1,0}", ["a1.0"]),
        ([Site(1, "mid"), "blocks.0.hook_mlp_out"], ["m0", "x1.mid"]),
        ("*", names(all_sites(Counts((2, 2))))),
    ],
)
def test_patterns_mean_the_matching_sites_in_the_models_order(patterns: str | list[str | Site], meant: list[str]) -> None:
    assert names(expand(patterns, all_sites(Counts((2, 2))))) == meant


@given(st.sets(st.sampled_from(all_sites(Counts((3, 3, 3)))), min_size=1))
def test_a_list_of_names_in_any_style_means_those_sites(chosen: set[Site]) -> None:
    known = all_sites(Counts((3, 3, 3)))
    for style in ("short", "hook", "latex"):
        assert expand([getattr(site, style) for site in chosen], known) == sorted(chosen)


@pytest.mark.parametrize("name", ["", "x0", "x0.between", "a0", "a0.", "a.1", "m", "m0.1", "a0.-1", "blocks.0", "y0.pre", "0"])
def test_what_is_no_name_of_a_site_is_refused(name: str) -> None:
    with pytest.raises(UnknownSiteError, match="site"):
        Site.parse(name)


@given(st.text(max_size=12))
def test_any_text_is_a_site_or_a_typed_error(text: str) -> None:
    known = all_sites(Counts((2, 2)))
    try:
        found = expand(text, known)
    except InversionViewError:
        return
    assert found
    assert set(found) <= set(known)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("x0.pst", "x0.post"), ("a01", "a0.1"), ("X1.MID", "x1.mid"), ("x1.middle", "x1.mid")],
)
def test_an_unknown_name_lists_what_exists_and_suggests_the_nearest(wrong: str, near: str) -> None:
    known = all_sites(Counts((2, 2)))
    for ask in (find_site, expand):
        with pytest.raises(UnknownSiteError) as caught:
            ask(wrong, known)
        message = str(caught.value)
        assert wrong in message
        assert all(site.short in message for site in known)
        assert f"Did you mean '{near}" in message


def test_a_kind_that_is_not_offered_is_said_with_the_reason() -> None:
    known = Sites(all_sites(Counts((2, 2))), {"mid": "it is another's"})
    assert list(known) == [site for site in all_sites(Counts((2, 2))) if site.kind != "mid"]
    for wrong, name in (
        ("x1.mid", "x1.mid"),
        ("blocks.1.hook_resid_mid", "x1.mid"),
        ("x*.mid", "x*.mid"),
        (Site(7, "mid"), "x7.mid"),
    ):
        for ask in (find_site, expand):
            if ask is find_site or isinstance(wrong, str):
                with pytest.raises(UnknownSiteError, match=rf"^{re.escape(name)} is not offered: it is another's; choose "):
                    ask(wrong, known)
    with pytest.raises(UnknownSiteError, match="Did you mean"):
        find_site("x1.middle", known)


def test_a_site_that_another_model_has_is_unknown() -> None:
    known = all_sites(Counts((2,)))
    for missing in (Site(1, "pre"), "x1.pre", "blocks.0.attn.hook_result[2]", Site(0, "head", 2)):
        with pytest.raises(UnknownSiteError):
            find_site(missing, known)


def test_the_list_of_a_large_models_sites_is_cut() -> None:
    with pytest.raises(UnknownSiteError, match="576 sites") as caught:  # 36 layers × (12 heads + 4)
        find_site("x9.pst", all_sites(Counts((12,) * 36)))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("patterns", ["", ",", [], "a*.*,zzz", "a9.*"])
def test_patterns_that_match_nothing_are_refused(patterns: str | list[str]) -> None:
    with pytest.raises(UnknownSiteError):
        expand(patterns, all_sites(Counts((2, 2))))
