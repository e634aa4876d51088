"""Tokens, loss masks, ends and cuts, on real tokenizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tandem.data.chat import decode_tokens, encode_groups, render_group
from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.chat.transcripts import answer_of, prompt_of
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import ConfigError, DataError, ModelError
from vocabularies import CHATML, ENDLESS, FORGETFUL, STRICT, byte_bpe, words

ASK = {"role": "user", "content": "how are you?"}
TALK = (
    {"role": "assistant", "content": "I am fine"},
    {"role": "user", "content": "and the dog?"},
    {"role": "assistant", "content": "it sat on the mat"},
)


def chat_group(*answers: str, name: str = "g") -> Group:
    text, messages = prompt_of([ASK])
    votes = (Preference(0, 1),) if len(answers) == 2 else ()
    return Group(
        Prompt(name, text, messages), tuple(Completion(a) for a in answers), preferences=votes
    )


def plain_group(prompt: str, *answers: str) -> Group:
    votes = (Preference(0, 1),) if len(answers) == 2 else ()
    return Group(Prompt("p", prompt), tuple(Completion(a) for a in answers), preferences=votes)


def one(group: Group, tokenizer, **how) -> Group:
    return encode_groups(
        Groups.of([group]), tokenizer, max_length=how.pop("max_length", None), **how
    ).groups[0]


def test_conversation_is_what_the_template_renders_as_a_whole():
    tokenizer = byte_bpe(CHATML)
    group = one(chat_group("I am fine"), tokenizer)
    messages = [ASK, TALK[0]]
    whole = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"]
    ids = [*group.prompt.tokens, *group.completions[0].tokens]
    assert ids == whole[: len(ids)]
    assert tokenizer.decode(whole[len(ids) :]) == "\n", "only the line end behind the end of turn"
    assert group.prompt.text == tokenizer.apply_chat_template(
        [ASK], tokenize=False, add_generation_prompt=True
    )
    assert group.completions[0].tokens[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert group.completions[0].mask is None, "every token of a single answer is trained on"


def test_every_assistant_turn_is_trained_on_and_nothing_else():
    tokenizer = byte_bpe(CHATML)
    text, messages = prompt_of([ASK])
    group = one(Group(Prompt("m", text, messages), (answer_of(TALK),)), tokenizer)
    completion = group.completions[0]
    assert completion.mask is not None
    trained = tokenizer.decode(completion.tokens[completion.mask])
    assert trained == "I am fine<|im_end|>it sat on the mat<|im_end|>"
    left_out = tokenizer.decode(completion.tokens[~completion.mask])
    assert left_out == "\n<|im_start|>user\nand the dog?<|im_end|>\n<|im_start|>assistant\n"
    whole = tokenizer.apply_chat_template([ASK, *TALK], tokenize=False)
    assert group.prompt.text + tokenizer.decode(completion.tokens) + "\n" == whole


def test_plain_text_is_joined_without_a_merged_seam():
    """`ab` + `out` would be one token together; apart they stay prompt and completion."""
    tokenizer = byte_bpe()
    together = tokenizer("about", add_special_tokens=False)["input_ids"]
    group = one(plain_group("ab", "out"), tokenizer)
    apart = [*group.prompt.tokens, *group.completions[0].tokens[:-1]]
    assert apart == tokenizer("ab")["input_ids"] + tokenizer("out")["input_ids"]
    assert apart != together


@pytest.mark.parametrize("text", ["the cat", "<s>the cat"])
def test_exactly_one_bos_where_the_tokenizer_adds_one(text: str):
    tokenizer = byte_bpe(bos=True)
    group = one(plain_group(text, " sat"), tokenizer)
    ids = [*group.prompt.tokens, *group.completions[0].tokens]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id


def test_no_bos_where_the_tokenizer_adds_none():
    group = one(plain_group("the cat", " sat"), byte_bpe())
    assert byte_bpe().bos_token_id not in group.prompt.tokens


@pytest.mark.parametrize("answer", [" sat", " sat</s>"])
def test_eos_once_and_trained_even_where_pad_is_eos(answer: str):
    """Complaints 3 and 4 of the field: a pad that equals EOS must not mask the real EOS."""
    tokenizer = byte_bpe(pad="</s>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    completion = one(plain_group("the cat", answer), tokenizer).completions[0]
    assert completion.tokens.tolist().count(tokenizer.eos_token_id) == 1
    assert completion.tokens[-1] == tokenizer.eos_token_id
    assert completion.mask is None


def test_an_answer_that_was_cut_gets_no_end():
    for tokenizer in (byte_bpe(), byte_bpe(CHATML), byte_bpe(ENDLESS)):
        text, messages = prompt_of([ASK])
        group = Group(Prompt("g", text, messages), (Completion("I am", stopped=False),))
        tokens = one(group, tokenizer).completions[0].tokens
        assert decode_tokens(tokens, tokenizer).strip() == "I am"
        assert not set(tokens.tolist()) & {tokenizer.eos_token_id, *tokenizer.all_special_ids}


def test_a_template_without_end_of_turn_gets_the_eos():
    tokenizer = byte_bpe(ENDLESS)
    completion = one(chat_group("I am fine"), tokenizer).completions[0]
    assert tokenizer.decode(completion.tokens) == " I am fine</s>"


def test_template_is_refused_where_earlier_turns_change():
    text, messages = prompt_of([ASK])
    group = Group(Prompt("m", text, messages), (answer_of(TALK),))
    with pytest.raises(ModelError, match="not prefix-preserving") as error:
        one(group, byte_bpe(FORGETFUL))
    assert all((error.value.what, error.value.why, error.value.do))
    assert "2 of 4" in error.value.what
    assert one(chat_group("one turn works"), byte_bpe(FORGETFUL))


def test_generation_prompt_that_answers_do_not_begin_with_is_refused():
    template = CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    with pytest.raises(ModelError, match="not prefix-preserving"):
        one(chat_group("I am fine"), byte_bpe(template))


def test_a_token_that_spans_prompt_and_answer_is_counted_and_split():
    """The generation prompt ends in a space, which BPE joins with the answer's first word."""
    template = ENDLESS.replace("assistant:{% endif", "assistant: {% endif")
    tokenizer = byte_bpe(template)
    encoded = encode_groups(Groups.of([chat_group("the cat")]), tokenizer, max_length=None)
    group = encoded.groups[0]
    assert encoded.counts.merged == 1
    asked = tokenizer.apply_chat_template([ASK], tokenize=False, add_generation_prompt=True)
    assert group.prompt.tokens.tolist() == tokenizer(asked)["input_ids"], "as a sampler sees it"
    assert decode_tokens(group.completions[0].tokens, tokenizer) == "the cat"


def test_conversations_that_a_template_refuses_are_dropped_and_counted():
    text, messages = prompt_of([ASK, ASK])
    bad = Group(Prompt("bad", text, messages), (Completion("x"),))
    encoded = encode_groups(Groups.of([bad, chat_group("fine")]), byte_bpe(STRICT), max_length=None)
    assert encoded.counts.dropped == {"the chat template refuses it: roles must alternate": 1}
    assert [g.id for g in encoded.groups] == ["g"]
    with pytest.raises(DataError, match="roles must alternate"):
        encode_groups(Groups.of([bad]), byte_bpe(STRICT), max_length=None)


def test_messages_without_a_template_are_read_as_a_transcript():
    tokenizer = byte_bpe()
    encoded = encode_groups(Groups.of([chat_group("I am fine")]), tokenizer, max_length=None)
    group = encoded.groups[0]
    text = tokenizer.decode([*group.prompt.tokens, *group.completions[0].tokens])
    assert text == "\n\nHuman: how are you?\n\nAssistant: I am fine</s>"
    assert encoded.counts.transcripts == 1


def test_turns_without_a_template_train_on_answers_alone():
    tokenizer = byte_bpe()
    text, messages = prompt_of([ASK])
    completion = one(Group(Prompt("m", text, messages), (answer_of(TALK),)), tokenizer).completions[
        0
    ]
    trained = tokenizer.decode(completion.tokens[completion.mask])
    assert trained == " I am fine it sat on the mat</s>"


def test_word_level_tokenizer_with_template():
    group = one(chat_group("I am fine,"), words(CHATML.replace("\n", " ")))
    assert decode_tokens(group.completions[0].tokens, words()) == "I am fine,"


FAMILIES = {
    "header": (
        "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_start|>\n\n"
        "{{ m['content'] | trim }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_start|>\n\n{% endif %}",
        "I am fine<|im_end|>",
    ),
    "instruction": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}"
        "{% endif %}{% endfor %}",
        " I am fine</s>",
    ),
    "model": (
        "{{ bos_token }}{% for m in messages %}{% set r = 'model' if m['role'] == 'assistant' else "
        "m['role'] %}<|im_start|>{{ r }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}",
        "I am fine<|im_end|>",
    ),
    "last turn thinks": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if loop.last and m['role'] == "
        "'assistant' %}<think></think>{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<think></think>I am fine<|im_end|>",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_of_the_usual_families(family: str):
    template, answer = FAMILIES[family]
    tokenizer = byte_bpe(template, bos=True)
    encoded = encode_groups(Groups.of([chat_group("I am fine")]), tokenizer, max_length=None)
    group = encoded.groups[0]
    assert encoded.counts.merged == 0
    assert tokenizer.decode(group.completions[0].tokens) == answer
    assert group.prompt.tokens.tolist().count(tokenizer.bos_token_id) == template.count("bos_token")
    text, messages = prompt_of([ASK])
    several = Group(Prompt("m", text, messages), (answer_of(TALK),))
    if family == "last turn thinks":
        with pytest.raises(ModelError, match="not prefix-preserving"):
            one(several, tokenizer)
        return
    completion = one(several, tokenizer).completions[0]
    trained = tokenizer.decode(completion.tokens[completion.mask])
    assert trained == answer + answer.replace("I am fine", "it sat on the mat")


def test_a_transcripts_separating_space_is_no_part_of_a_message():
    tokenizer = byte_bpe(CHATML)
    with_space, without = (one(chat_group(t), tokenizer).completions[0] for t in (" ok", "ok"))
    assert with_space.tokens.tolist() == without.tokens.tolist()


written = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(written, written, written)
def test_plain_text_comes_back_byte_for_byte(prompt: str, first: str, second: str):
    tokenizer = byte_bpe(bos=True)
    group = one(plain_group(prompt, first, second), tokenizer)
    assert decode_tokens(group.prompt.tokens, tokenizer) == prompt
    assert [decode_tokens(c.tokens, tokenizer) for c in group.completions] == [first, second]


@settings(max_examples=60, deadline=None)
@example([" a", " b"])
@example(["a", "b", " c ", "\n d\n"])
@given(st.lists(written, min_size=2, max_size=6).filter(lambda x: len(x) % 2 == 0))
def test_any_conversation_is_rendered_whole_and_masked_by_turns(said: list[str]):
    tokenizer = byte_bpe(CHATML)
    roles = ("user", "assistant")
    messages = [{"role": roles[k % 2], "content": text} for k, text in enumerate(said)]
    text, asked = prompt_of(messages[:1])
    group = one(Group(Prompt("m", text, asked), (answer_of(messages[1:]),)), tokenizer)
    completion = group.completions[0]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    joined = [*group.prompt.tokens, *completion.tokens]
    assert tokenizer.decode(joined) == whole.removesuffix("\n")
    mask = np.ones(len(completion.tokens), bool) if completion.mask is None else completion.mask
    trained = tokenizer.decode(completion.tokens[mask])
    assert trained == "".join(f"{t}<|im_end|>" for t in said[1::2])


class TestLengths:
    def sizes(self, group: Group) -> tuple[int, list[int]]:
        return len(group.prompt.tokens), [len(c.tokens) for c in group.completions]

    def pair(self) -> tuple[Group, int, list[int]]:
        group = plain_group("the cat sat on the mat", " hello dog", " hello to the dog and the cat")
        return group, *self.sizes(one(group, byte_bpe()))

    def test_drop_takes_the_whole_pair(self):
        group, prompt, (short, long) = self.pair()
        assert one(group, byte_bpe(), max_length=prompt + long)
        small = plain_group("the cat", " sat", " hello")
        encoded = encode_groups(Groups.of([group, small]), byte_bpe(), max_length=prompt + long - 1)
        assert len(encoded.groups) == 1
        assert encoded.counts.kept == 1
        reason = f"longer than {prompt + long - 1} tokens: too few completions are left"
        assert encoded.counts.dropped == {reason: 1}
        assert encoded.counts.completions == 4
        assert encoded.counts.completions_kept == 2
        assert encoded.counts.preferences_kept == 1
        assert short < long

    def test_drop_keeps_what_fits_of_several(self):
        texts = (" sat", " hello dog", " " + "the cat sat on the mat " * 5)
        votes = (Preference(0, 1), Preference(2, 0), Preference(2, 1))
        group = Group(
            Prompt("k", "the cat"), tuple(Completion(t) for t in texts), np.arange(3.0), votes
        )
        encoded = encode_groups(Groups.of([group]), byte_bpe(), max_length=12)
        kept = encoded.groups[0]
        assert [c.text for c in kept.completions] == list(texts[:2])
        assert kept.preferences == (Preference(0, 1),)
        assert kept.scores is not None
        assert kept.scores.tolist() == [0, 1]
        assert encoded.counts.completions_dropped == {"longer than 12 tokens": 1}
        assert encoded.counts.preferences == 3
        assert encoded.counts.preferences_kept == 1

    def test_drop_keeps_the_one_answer_that_fits(self):
        """Of answers that nobody compared one alone is worth keeping, with its weight.

        LMSI's 31 equal paths are one answer of weight 31: they are not lost with a path too long.
        """
        texts = (" sat", " " + "the cat sat on the mat " * 5)
        votes = tuple(Completion(t, weight=w) for t, w in zip(texts, (31.0, 1.0), strict=True))
        encoded = encode_groups(
            Groups.of([Group(Prompt("k", "the cat"), votes)]), byte_bpe(), max_length=12
        )
        (kept,) = encoded.groups
        assert [(c.text, c.weight) for c in kept.completions] == [(" sat", 31.0)]
        assert encoded.counts.completions_dropped == {"longer than 12 tokens": 1}
        assert encoded.counts.dropped == {}

    def test_keep_start_never_cuts_one_side_only(self):
        group, prompt, (short, long) = self.pair()
        cut = one(group, byte_bpe(), max_length=prompt + long - 1, truncation="keep-start")
        assert self.sizes(cut) == (prompt, [short - 1, short - 1])
        assert not any(c.stopped for c in cut.completions)
        assert all(c.tokens[-1] != byte_bpe().eos_token_id for c in cut.completions)

    def test_keep_start_cuts_a_demonstration_to_the_room(self):
        group = plain_group("the cat", " sat on the mat and said hello")
        cut = one(group, byte_bpe(), max_length=6, truncation="keep-start")
        assert sum(len(t) for t in (cut.prompt.tokens, cut.completions[0].tokens)) == 6

    def test_keep_end_cuts_the_shared_prompt_behind_bos(self):
        tokenizer = byte_bpe(bos=True)
        group, _, _ = self.pair()
        before = one(group, tokenizer)
        prompt, (short, long) = self.sizes(before)
        cut = one(group, tokenizer, max_length=prompt + long - 2, truncation="keep-end")
        assert self.sizes(cut) == (prompt - 2, [short, long])
        assert cut.prompt.tokens[0] == tokenizer.bos_token_id
        assert cut.prompt.tokens[1:].tolist() == before.prompt.tokens[3:].tolist()
        assert all(c.tokens[-1] == tokenizer.eos_token_id for c in cut.completions)

    def test_prompt_longer_than_the_context(self):
        with pytest.raises(DataError, match="the prompt alone fills 3 tokens"):
            encode_groups(
                Groups.of([plain_group("the cat sat on", " the")]), byte_bpe(), max_length=3
            )

    def test_prompt_alone_is_kept_where_it_leaves_room(self):
        assert len(one(Group(Prompt("q", "the cat")), byte_bpe(), max_length=8).prompt.tokens)

    @pytest.mark.parametrize("how", [{"truncation": "middle"}, {"max_length": 1}])
    def test_settings_out_of_range(self, how: dict):
        with pytest.raises(ConfigError):
            one(chat_group("x"), byte_bpe(), **how)


def many(n: int) -> Groups:
    return Groups.of(
        chat_group(f"answer {k} about the cat", f"the dog {k * k}", name=f"g{k}") for k in range(n)
    )


def test_worker_processes_give_the_same_tokens_in_the_same_order():
    seen: list[tuple[int, int]] = []
    now = encode_groups(many(600), byte_bpe(CHATML), max_length=64)
    there = encode_groups(
        many(600),
        byte_bpe(CHATML),
        max_length=64,
        workers=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert there.groups.hash == now.groups.hash
    assert there.counts == now.counts
    assert seen == [(256, 600), (512, 600), (600, 600)]


def test_cache_is_keyed_by_data_tokenizer_and_settings(tmp_path: Path):
    def files() -> int:
        return len(list(tmp_path.glob("encoded-*.parquet")))

    first = encode_groups(many(5), byte_bpe(CHATML), max_length=64, cache=tmp_path)
    again = encode_groups(
        many(5),
        byte_bpe(CHATML),
        max_length=64,
        cache=tmp_path,
        progress=lambda *_: pytest.fail("encoded again"),
    )
    assert files() == 1
    assert again.groups.hash == first.groups.hash
    assert again.counts == first.counts
    encode_groups(many(6), byte_bpe(CHATML), max_length=64, cache=tmp_path)
    encode_groups(many(5), byte_bpe(STRICT), max_length=64, cache=tmp_path)
    encode_groups(many(5), byte_bpe(CHATML), max_length=65, cache=tmp_path)
    encode_groups(many(5), byte_bpe(CHATML), max_length=64, truncation="keep-end", cache=tmp_path)
    assert files() == 5


def test_a_padding_setting_left_on_the_tokenizer_changes_nothing():
    tokenizer = byte_bpe(CHATML)
    before = encode_groups(many(3), tokenizer, max_length=64)
    tokenizer(["a", "a much longer text"], padding=True, truncation=True, max_length=4)
    assert encode_groups(many(3), tokenizer, max_length=64).groups.hash == before.groups.hash


def test_a_tokenizers_hash_does_not_depend_on_how_it_was_last_called(tmp_path: Path):
    """Also where padding and truncation come with the files."""
    tokenizer = byte_bpe(CHATML)
    own = tokenizer_hash(tokenizer)
    tokenizer(["a", "a much longer text"], padding=True, truncation=True, max_length=4)
    assert tokenizer.backend_tokenizer.truncation is not None
    assert tokenizer_hash(tokenizer) == own
    tokenizer.save_pretrained(tmp_path)
    shipped = AutoTokenizer.from_pretrained(tmp_path)
    assert shipped.backend_tokenizer.truncation is not None
    assert tokenizer_hash(shipped) == own
    assert tokenizer_hash(byte_bpe(STRICT)) != own


def test_render_shows_borders_and_mask():
    tokenizer = byte_bpe(CHATML)
    text, messages = prompt_of([ASK])
    group = one(Group(Prompt("m", text, messages), (answer_of(TALK),)), tokenizer)
    plain = render_group(group, tokenizer, colour=False)
    lines = plain.splitlines()
    assert lines[1].startswith("<|im_start|>|")
    assert lines[3].startswith("[")
    assert "<|im_end|>](\\n|<|im_start|>|" in lines[3], "end of turn trained, header not"
    assert lines[3].endswith("<|im_end|>]")
    coloured = render_group(group, tokenizer)
    assert "\033[32m" in coloured
    assert "\033[33m" in coloured


def test_no_tokenizer_and_no_eos():
    with pytest.raises(ModelError, match="None"):
        one(chat_group("x"), None)
    tokenizer = byte_bpe()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no EOS"):
        one(chat_group("x"), tokenizer)
