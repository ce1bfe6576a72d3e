"""The releases of sglang that the kit knows, and which of them have the bug."""

from __future__ import annotations

ALL = (
    *("0.5.6", "0.5.6.post1", "0.5.6.post2", "0.5.7", "0.5.8", "0.5.8.post1", "0.5.9", "0.5.10", "0.5.10.post1"),
    *("0.5.11", "0.5.12", "0.5.12.post1", "0.5.13", "0.5.13.post1", "0.5.14", "0.5.15", "0.5.15.post1", "0.5.16"),
    *("0.5.17", "0.5.18", "0.5.19", "0.5.20", "0.5.21", "0.5.22", "0.5.23"),
)
OLDEST, NEWEST = ALL[0], ALL[-1]
FIXED = "0.5.13"  # the first with the fix, #24231
AFFECTED = ALL[ALL.index("0.5.9") : ALL.index(FIXED)]  # 0.5.9 is the first with the shared-memory transport
CONTAINED = "0.5.19"  # the first whose server answers 500 if a segment cannot be read, and lives on
LAST = AFFECTED[-1]  # the last affected release, which this kit installs
