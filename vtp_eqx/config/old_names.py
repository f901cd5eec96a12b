"""Former names of config fields, log keys and types: every reader accepts them.

`short_hash` uses them too, so that finished runs are found again.
"""

from collections.abc import Mapping


# Of each config class: today's field, and what it was called before.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "TokenizerConfig": {"heads_input": "heads_on"},
    "PretrainOptions": {
        "num_eval": "num_judged",
        "exit_on_stall": "ends_stalled",
        "load_size": "stored_size",
        "max_rollbacks": "rollbacks",
    },
}
# Of `metrics.jsonl`: what a key was called before, and today's.
LOG_KEYS: Mapping[str, str] = {"waiting": "data_wait"}
