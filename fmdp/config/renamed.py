"""Configuration keys of version 0.1.0 under the names they have now."""

from typing import Any

RENAMED = {
    "data.origin": "data.download_hint",
    "train.keep": "train.max_to_keep",
    "train.keep_every": "train.keep_period",
    "train.skip_limit": "train.max_consecutive_skips",
    "train.accumulate": "train.grad_accumulation_steps",
    "evaluate.draws": "evaluate.noise_draws",
    "evaluate.rival_images": "evaluate.baseline_images",
    "evaluate.rival_steps": "evaluate.baseline_steps",
}
"""Old key to new key. The old ones are accepted in this version only."""


def rename_keys(config: Any) -> list[str]:
    """Move values from old keys to new ones, in place.

    Args:
      config: a ConfigDict, or nested dictionaries as `defaults.as_plain_dict` gives them.

    Returns:
      The old keys that were found.
    """
    found = []
    for old, new in RENAMED.items():
        section, key = old.split(".")
        if hasattr(config.get(section), "keys") and key in config[section]:  # a damaged record holds anything
            config[section][new.split(".")[1]] = config[section][key]
            del config[section][key]
            found.append(old)
    return found
