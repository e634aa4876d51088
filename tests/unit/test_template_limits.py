"""A chat template is a program of a stranger: bounded, and whatever it raises is a ModelError."""

from __future__ import annotations

import time

import pytest

from tandem.data.chat import template_limits
from tandem.data.chat.encode import encode_groups
from tandem.data.chat.template_limits import check_template, rendering_deadline
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ModelError
from vocabularies import CHATML, byte_bpe

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x"
DOUBLING = (
    "{% set ns=namespace(s='x'*100000) %}{% for a in range(40) %}{% set ns.s = ns.s ~ ns.s %}"
    "{% endfor %}{{ ns.s }}"
)
ASKED = Groups.of(
    [Group(Prompt("a", "", ({"role": "user", "content": "hi"},)), (Completion("y"),))]
)


@pytest.mark.parametrize(
    "template", ["{{ messages + 1 }}", "{{ 1 // 0 }}", "{% include 'x' %}", "{{ (" * 300, "{% x %}"]
)
def test_what_a_template_raises_is_a_model_error(template):
    with pytest.raises(ModelError, match="chat template"):
        encode_groups(ASKED, byte_bpe(template), max_length=None)


@pytest.mark.parametrize("template", [LOOPS, DOUBLING])
def test_a_template_is_bounded(template, monkeypatch):
    monkeypatch.setattr(template_limits, "SECONDS", 1.0)
    begun = time.monotonic()
    with pytest.raises(ModelError, match="chat template"):
        check_template(byte_bpe(template))
    assert time.monotonic() - begun < 20


def test_a_fair_template_passes_and_may_refuse_turns():
    check_template(byte_bpe(CHATML))
    check_template(byte_bpe("{{ raise_exception('no system turn') }}"))


def test_each_rendering_has_a_deadline(monkeypatch):
    monkeypatch.setattr(template_limits, "SECONDS", 0.2)
    with pytest.raises(ModelError, match="chat template"), rendering_deadline():
        time.sleep(5)
    time.sleep(0.3)  # the clock is off again
