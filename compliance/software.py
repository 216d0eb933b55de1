"""What a site approves to run: the version of this package and the digest of the code-free app bundle."""

from __future__ import annotations

from compliance import __version__

VERSION = __version__
# SHA-256 of the bundle that server/bundle_build.py builds; a test rebuilds it and compares.
BUNDLE_SHA256 = "0" * 64
