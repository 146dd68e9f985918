"""Where real crystals lie, for tests that compare with them; such tests are skipped where there are none."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("CRYSTALGFN_DATA", Path(__file__).parents[3] / "shared" / "data"))
"""Set CRYSTALGFN_DATA to a folder with crystals.parquet and structures.parquet."""

CRYSTALS = FOLDER / "crystals.parquet"
STRUCTURES = FOLDER / "structures.parquet"
