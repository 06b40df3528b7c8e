"""Write the checksums of what the package carries: ``python scripts/shipped.py``, after a shipped file was changed."""

import json

from inversionview.core.integrity import CHECKSUMS, file_digest, sealed
from inversionview.studies.shipped import CARRIED, FILES

parts = [FILES / part for part in CARRIED]
paths = [path for part in parts for path in (sorted(part.rglob("*")) if part.is_dir() else [part]) if path.is_file()]
content = sealed({"files": {path.relative_to(FILES).as_posix(): file_digest(path) for path in paths}})
(FILES / CHECKSUMS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
