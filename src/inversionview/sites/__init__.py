"""Activation sites: what each kind is called, where it is read and written, and patterns over the sites of a model."""

from inversionview.sites.kind import Kind, Tap
from inversionview.sites.patterns import expand, find_site, select
from inversionview.sites.site import EMBEDDINGS, FAMILIES, KINDS, REGISTRY, Site, Sites, all_sites

__all__ = [
    "EMBEDDINGS",
    "FAMILIES",
    "KINDS",
    "REGISTRY",
    "Kind",
    "Site",
    "Sites",
    "Tap",
    "all_sites",
    "expand",
    "find_site",
    "select",
]
