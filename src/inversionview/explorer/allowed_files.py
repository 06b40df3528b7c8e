"""Which files a page may have the server read: sites can be read through directions and dictionaries that lie in files.

On 127.0.0.1 with no proxy before it, whoever asks is the owner's own page (``guard.py`` turns away the pages of other sites) or
a program on this machine; there all files do. A server that others can reach reads what it was started with, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from inversionview.core.errors import SettingError
from inversionview.model.sites.site import Site
from inversionview.model.sites.through import path_of, shipped_with, split


class AllowedFiles:
    """Files and folders that sites may be read through.

    Args:
        every: all of them.
        paths: these, and what lies in them.
    """

    def __init__(self, every: bool = False, paths: Iterable[Path] = ()) -> None:
        self.every, self.paths = every, [path.expanduser().resolve() for path in paths]

    def checked(self, name: str | None, own: Iterable[Site] = ()) -> str | None:
        """Return the name of a site, if what it is read through may be read; the package's dictionaries always may.

        Args:
            name: as the page gives it.
            own: sites of the study, which may be named whatever they are read through.

        Raises:
            SettingError: it may not; nothing was looked at, so that nobody learns what is there.
        """
        through = "" if name is None else split(name)[1]
        if not through or self.every or shipped_with(through) or any(name == site.short for site in own):
            return name
        path = path_of(through).resolve()
        inside = any(path == each or each in path.parents for each in self.paths)
        if not (inside and path.exists()):  # else it would be looked for on the hub
            raise SettingError(
                "This server can be reached by others and reads no file that a page names, unless it was started with it: "
                "--allow-file PATH."
            )
        return name
