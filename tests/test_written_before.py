"""Files that were written before names changed are read, and runs are found again."""

import json
from pathlib import Path

from vtp_eqx.config import from_dict, short_hash
from vtp_eqx.config.old_names import FIELDS
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.pretrain_options import PretrainOptions
from vtp_eqx.tokenizer import load


OLD = Path(__file__).parent / "golden" / "written_before"


def test_options_of_a_run_keep_their_values_and_hashes():
    options = from_dict(PretrainOptions, json.loads((OLD / "config.json").read_text()))
    assert (options.num_eval, options.exit_on_stall) == (100, True)
    assert (options.load_size, options.max_rollbacks) == (40, 5)
    hashes = json.loads((OLD / "hashes.json").read_text())
    assert short_hash(options.config) == hashes["pretrain"]


def test_a_saved_tokenizer_loads():
    assert load(OLD / "tokenizer").config.heads_input == "latent"


def test_a_log_has_the_names_of_today():
    [line] = read_log(OLD / "metrics.jsonl")
    assert line == {"step": 1, "seconds": 2.5, "total": 1.25, "data_wait": 0.02}


def test_old_and_new_names_are_apart():
    for names in FIELDS.values():
        assert not names.keys() & set(names.values())
