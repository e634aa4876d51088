"""Model text stays text: nothing runs, nothing is hidden, nothing reorders its surroundings."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

from hypothesis import example, given
from hypothesis import strategies as st

from tandem.labelling.answer_text import (
    MOST_SHOWN,
    is_cut,
    is_right_to_left,
    render_answer,
    render_differences,
    render_text,
    render_turns,
    visible_text,
)

ALLOWED = re.compile(
    r"</?(p|br|hr|em|strong|s|code|pre|blockquote|ul|ol|li|table|thead|tbody|tr|th|td)>"
    r'|<p class="plain">'
)


@given(st.text(max_size=300))
@example("<script>alert(1)</script>")
@example("[x](javascript:alert(1)) ![y](http://a/b.png) <http://a> http://b")
@example("```html\n</code><img src=x onerror=alert(1)>\n```")
@example("<b\n\nonmouseover=alert(1)>")
@example("[a]: http://x\n\n[a]")
@example("&lt;script&gt; &#x202e; &#60;img&#62;")
def test_only_a_short_list_of_tags_comes_out(text):
    left = ALLOWED.sub("", str(render_text(text)))
    assert "<" not in left
    for word in ("href", "src="):
        if word in left:
            assert word in text


def test_links_and_images_stay_as_they_were_written():
    shown = str(render_text("see [here](http://x.org/a) and ![pic](http://x.org/b.png)"))
    assert "[here](http://x.org/a)" in shown
    assert "![pic](http://x.org/b.png)" in shown


def test_markdown_is_readable():
    shown = str(
        render_text("# Head\n\n- **a**\n- `b`\n\n```py\nx = 1\n```\n\n| a | b |\n|-|-|\n|1|2|")
    )
    assert "<p><strong>Head</strong></p>" in shown
    assert "<pre><code>x = 1\n</code></pre>" in shown
    assert "<th>a</th>" in shown


def test_hidden_characters_are_named():
    assert visible_text("a\u202eb\x1b[31m\x00\u200b") == "a⟦U+202E⟧b␛[31m␀⟦U+200B⟧"
    assert visible_text("tab\tand\nline") == "tab\tand\nline"
    assert "U+E0041" in visible_text("\U000e0041")
    # what languages need stays
    persian = "می\u200cخواهم \u200f"  # noqa: RUF001
    assert visible_text(persian) == persian


def test_direction_is_that_of_the_first_letter():
    assert is_right_to_left("1. שלום world")
    assert is_right_to_left("مرحبا")
    assert not is_right_to_left("hello שלום")
    assert not is_right_to_left("123")


def test_a_very_long_text_is_cut_and_says_so():
    text = "x" * (MOST_SHOWN + 10)
    assert is_cut(text)
    assert render_answer(text, None)[0]["cut"]
    assert len(render_text(text)) < MOST_SHOWN + 100


def test_differences_mark_the_words_that_only_one_has():
    left, right = render_differences("the old <b> cat", "the new <b> cat")
    assert "<mark>old</mark>" in left
    assert "<mark>new</mark>" in right
    assert "&lt;b&gt;" in left


def test_turns_and_tools_are_shown():
    turns = render_turns(
        {
            "text": "",
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": None, "tool_calls": [{"function": "<f>"}]},
                {"role": "tool", "content": [{"type": "text", "text": "out"}, {"type": "image"}]},
            ],
        }
    )
    assert [t["role"] for t in turns] == ["Person", "Assistant", "Tool result"]
    assert "&lt;f&gt;" in turns[1]["html"]
    assert "[image]" in turns[2]["html"]
