"""`from tandem import Run`: what the package itself offers, looked up when asked for."""

import subprocess
import sys

import pytest

import tandem


@pytest.mark.parametrize("name", tandem.__all__)
def test_a_public_name_is_the_one_of_its_module(name: str):
    found = getattr(tandem, name)
    assert found.__name__ == name
    assert found.__module__.startswith("tandem.")
    assert name in dir(tandem)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Runn'"):
        tandem.Runn  # noqa: B018


def test_the_package_and_run_load_no_torch():
    code = "import sys, tandem; from tandem import Run, Seed, Group; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
