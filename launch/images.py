"""Image names whose tags follow from content: the same code, the same tag, the same cache entries.

KFP looks cached results up by image string, so the tag is what makes a changed stage run again, and lets
an unchanged one be skipped.
"""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    "preflight",
    "data_preparation",
    "rl_exploration",
    "rollout_harvesting",
    "verification_filtering",
    "rft",
    "evaluation",
    "report",
)


def image(stage: str, registry: str = "") -> str:
    """The image of a stage: `[REGISTRY/]rloop-STAGE:TAG`, the tag from its code, the shared code and the pins."""
    digest = hashlib.sha256()
    folders = [ROOT / "components" / stage, ROOT / "components" / "shared"]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))] + [ROOT / "constraints.txt"]
    for file in files:
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    name = f"rloop-{stage.replace('_', '-')}:{digest.hexdigest()[:12]}"
    return f"{registry.rstrip('/')}/{name}" if registry else name
