"""The bits of the first steps of every preset's tiny twin, as they were."""

import pytest

from tests.write_hashes import machine_key, read_hashes, step_hashes, twins


TWINS = twins()


def hashes_here(name: str, entries: dict) -> dict[str, str]:
    """Of a preset on this machine; a skip with a sentence where there are none."""
    key = machine_key()
    if name not in entries.get(key, {}):
        pytest.skip(
            f"No hashes of {name} were written on such a machine ({key}): "
            f"python -m tests.write_hashes {name} writes them."
        )
    return entries[key][name]


@pytest.mark.slow
@pytest.mark.parametrize("config", TWINS, ids=lambda config: TWINS[config][0])
def test_the_first_steps_of_a_preset_have_the_bits_that_they_had(config):
    expected = hashes_here(TWINS[config][0], read_hashes())
    assert step_hashes(config) == expected


def test_hashes_are_of_presets_that_there_are():
    names = {name for names in TWINS.values() for name in names}
    entries = read_hashes()
    assert entries
    for key, entry in entries.items():
        assert entry.keys() <= names, key


def test_another_machine_skips_and_says_why():
    with pytest.raises(pytest.skip.Exception, match=r"No hashes .* \(jax .* jaxlib"):
        hashes_here("GENERATE_S", {"jax 0.0.1": {"GENERATE_S": {}}})
