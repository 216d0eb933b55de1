"""`residency` in an interpreter that cannot import the training libraries: `python -m demo.blocked verify ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from demo.verification import ABSENT_THERE


class Blocker(MetaPathFinder):
    """Answers an import of a blocked package as if it were not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raises ModuleNotFoundError for a blocked package, else leaves it to the others."""
        del path, target
        if fullname.partition(".")[0] in ABSENT_THERE:
            raise ModuleNotFoundError(f"No module named {fullname!r} (blocked)", name=fullname)
        return None


def main() -> None:
    """Block, then be the command."""
    loaded = [name for name in ABSENT_THERE if name in sys.modules]
    if loaded:
        raise SystemExit(f"already imported: {loaded}")
    sys.meta_path.insert(0, Blocker())
    import residency  # noqa: PLC0415 - after the block

    residency.main()


if __name__ == "__main__":
    main()
