"""What `residency bench dp` is held to: ours against stock peft, the fused twin, and peft without a prefix cache."""

from __future__ import annotations

from typing import Any, Final

from compliance.canonical import Json

TIME_TO_PEFT: Final = 1.05  # adapters on all layers, 64 tokens, batch 32
TIME_TO_TWIN: Final = 1.10
FULL_TO_PEFT: Final = 1.35  # full fine-tuning without embeddings
PEAK_TO_TWIN: Final = 1.10  # every case with a twin, but for the short run's, whose fixed costs are most of it
CACHED_TO_SAME_LAYERS: Final = 1.7  # times quicker
CACHED_TO_ALL_LAYERS: Final = 2.5
_FULL_SIZE: Final = (64, 32)


def judged(case: dict[str, Any]) -> dict[str, Json]:
    """For each figure of a case that has a limit: its value, the limit, and whether it lies within."""
    found: list[tuple[str, float | None, float]] = []
    if case["prefix_cache"]:
        quicker = case["times_quicker"]
        for name, least in (
            ("than_peft_on_these_layers", CACHED_TO_SAME_LAYERS),
            ("than_peft_on_all_layers", CACHED_TO_ALL_LAYERS),
        ):
            found.append((f"times_quicker_{name}", quicker[name], -least))
    elif (case["tokens"], case["batch"]) == _FULL_SIZE:
        full = case["adapter"] == "full"
        found.append(("time_to_peft", case["ratio_to_peft"]["ours"], FULL_TO_PEFT if full else TIME_TO_PEFT))
        found.append(("time_to_twin", case.get("ratio_to_twin"), TIME_TO_TWIN))
    if case["tokens"] >= 32:
        found.append(("peak_to_twin", case.get("peak_to_twin"), PEAK_TO_TWIN))
    return {
        name: {"value": value, "limit": abs(limit), "within": value >= -limit if limit < 0 else value <= limit}
        for name, value, limit in found
        if value is not None
    }


def told(case: dict[str, Any]) -> str:
    """The judgement of a case in a few words, for people."""
    words = []
    for name, one in case["limits"].items():
        outside = "BELOW" if name.startswith("times_quicker") else "ABOVE"
        words.append(
            f"{name.replace('_', ' ')} {one['value']} ({'within' if one['within'] else outside} {one['limit']})"
        )
    return "; ".join(words)
