"""What a site approves to run: the version of this package and the digest of the code-free app bundle."""

from __future__ import annotations

from compliance import __version__

VERSION = __version__
# SHA-256 of the bundle that server/bundle_build.py builds; a test rebuilds it and compares.
BUNDLE_SHA256 = "a869f65354e8fc26eceb595c3c1c053f2d0b5b3fce3525bf22ed69fe90750214"
