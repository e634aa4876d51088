"""Inputs as users of other tools bring them, by kind, and what is right: a value, or an error.

Each kind has ten inputs or more. What is right was written down by hand, from what the file says.
"""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tandem.data.record import Group

Q, A, B = "What floats on the river?", "A barge floats there.", "A stone, they say."
SHORT = "Be short."
U, S, Y = ({"role": who} for who in ("user", "assistant", "system"))
ASKED, SAID, WRONG, RULE = (
    U | {"content": Q},
    S | {"content": A},
    S | {"content": B},
    Y | {"content": SHORT},
)
H, G, W = ({"from": "human", "value": Q}, {"from": "gpt", "value": A}, {"from": "gpt", "value": B})
PAIR = {"chosen": A, "rejected": B}
TEXT, CHAT = Q, f"user:{Q}"
RULED = f"system:{SHORT}|{CHAT}"
TALKED = f"user:hi|assistant:hello|{CHAT}"


@dataclass(frozen=True)
class Case:
    """One input and what is right.

    Attributes:
        name: kind and input.
        rows: rows, or the file's own bytes.
        prompt: what the first prompt says, by roles; empty where the file is refused.
        votes: (better, worse) texts of the first group.
        score: of its first answer, or None.
        refused: words of the error, in order.
        kind: ending of the file.
        kept: groups, where not one a row.
    """

    name: str
    rows: Any
    prompt: str = ""
    votes: tuple[tuple[str, str], ...] = ((A, B),)
    score: float | None = None
    refused: tuple[str, ...] = ()
    kind: str = "jsonl"
    kept: int | None = None


def one(name: str, row: dict[str, Any], prompt: str = CHAT, **more: Any) -> Case:
    return Case(name, [row], prompt, **more)


def no(name: str, row: dict[str, Any], *refused: str, **more: Any) -> Case:
    return Case(name, [row], refused=refused, **more)


def asking(column: str, value: Any = Q) -> dict[str, Any]:
    return {column: value, **PAIR}


def whole(*turns: Any) -> dict[str, Any]:
    return {"chosen": [*turns, ASKED, SAID], "rejected": [*turns, ASKED, WRONG]}


QUESTIONS = [
    one("01 question", asking("question")),
    one("01 input", asking("input")),
    one("01 instruction, empty input", asking("instruction") | {"input": ""}),
    one("01 instruction and input", asking("instruction") | {"input": "x"}, f"{CHAT}\n\nx"),
    one("01 input alone is full", {"instruction": "", "input": Q, **PAIR}),
    one("01 instruction is null", {"instruction": None, "input": Q, **PAIR}),
    one("01 parquet nulls", asking("instruction") | {"input": None}, kind="parquet"),
    one("01 csv empty system", asking("question") | {"system": ""}, kind="csv"),
    one("01 system beside prompt", asking("prompt") | {"system": SHORT}, RULED),
    one("01 system_prompt", asking("question") | {"system_prompt": SHORT}, RULED),
    one("01 system_message", asking("prompt") | {"system_message": SHORT}, RULED),
    one("01 System Prompt", asking("prompt") | {"System Prompt": SHORT}, RULED),
    one("01 system as messages", asking("prompt") | {"system": [RULE]}, RULED),
    one("01 system in the prompt alone", {"prompt": [RULE, ASKED], **whole()}, RULED),
    one("01 whole answers beside a question", asking("question") | whole()),
    one("01 whole answers and a score", whole(RULE) | {"score_chosen": 8.5}, RULED),
    one("01 history pairs", asking("instruction") | {"history": [["hi", "hello"]]}, TALKED),
    one("01 history objects", asking("prompt") | {"history": [{"user": "hi", "bot": "hello"}]},
        TALKED),
    one("01 history messages", asking("prompt") | {
        "history": [U | {"content": "hi"}, S | {"content": "hello"}]}, TALKED),
    one("01 history as JSON", asking("prompt") | {"history": '[["hi", "hello"]]'}, TALKED),
    one("01 history is empty", asking("prompt") | {"history": []}, TEXT),
    no("01 history as prose", asking("prompt") | {"history": "hi, hello"}, ":1: `history`", "JSON"),
    one("01 axolotl messages", {"messages": [RULE, ASKED], "chosen": SAID, "rejected": WRONG},
        RULED),
    one("01 messages, texts", asking("messages", [ASKED])),
    one("01 messages, lists", {"messages": [ASKED], "chosen": [SAID], "rejected": [WRONG]}),
    one("01 answers repeat the question", {
        "question": Q, "chosen": f"{Q}\n{A}", "rejected": f"{Q}\n{B}"},
        votes=((f"\n{A}", f"\n{B}"),)),
    one("01 a greeting is no prompt", {"question": "Hi", "chosen": "Hi! Yes?",
                                       "rejected": "Hi you"}, "user:Hi",
        votes=(("Hi! Yes?", "Hi you"),)),
    one("01 a greeting beside prompt", {"prompt": "Hi", "chosen": "Hi! Yes?",
                                        "rejected": "Hi you"}, "Hi",
        votes=(("Hi! Yes?", "Hi you"),)),
    one("01 answers repeat the prompt", {
        "prompt": Q, "chosen": f"{Q} {A}", "rejected": f"{Q} {B}"}, TEXT,
        votes=((f" {A}", f" {B}"),)),
    *(no(f"01 {column}", asking(column, value), f"`{column}`", "unread",
         f"--columns prompt={column}")
      for column, value in {
          "query": Q, "problem": Q, "user_input": Q, "Question": Q, "task": Q, "post": Q,
          "source_text": Q, "dialogue": Q, "context": [ASKED], "conversation": [ASKED],
          "aufgabe": "河上漂着什么东西"}.items()),
    no("01 answers alone beside a conversation",
       {"conversation": [ASKED], "chosen": SAID, "rejected": WRONG}, "--columns prompt=conversat"),
    no("01 names in capitals", {"Prompt": Q, "Chosen": A, "Rejected": B}, "fit no format",
       "--columns prompt=Prompt,chosen=Chosen,rejected=Rejected"),
    no("01 axolotl's argilla", {"instruction": Q, "chosen_response": A, "rejected_response": B},
       "--columns prompt=instruction,chosen=chosen_response,rejected=rejected_response"),
    no("01 q, good and bad", {"q": Q, "good": A, "bad": B},
       "--columns prompt=q,chosen=good,rejected=bad"),
    no("01 response_j and response_k", {"question": Q, "response_j": A, "response_k": B},
       "--columns prompt=question,chosen=response_j,rejected=response_k"),
    no("01 distilabel", {"instruction": Q, "generations": [A, B], "ratings": [5, 2]},
       "--columns prompt=instruction,completions=generations,scores=ratings"),
    no("01 two judged answers without a word for it",
       {"question": Q, "answer_1": A, "answer_2": B, "score_1": 1, "score_2": 0}, "fit no format",
       "write each row"),
    no("01 another prompt than the answers have", {"prompt": "Who swims?", **whole()},
       "another prompt", "--format implicit-prompt"),
    no("01 preferred beside prompt", {"prompt": Q, "preferred": A, "dispreferred": B},
       "left out", "--columns chosen=preferred,rejected=dispreferred"),
]  # fmt: skip

SEVERAL = [
    one("02 one against three", {"prompt": Q, "chosen": [A], "rejected": [B, "c", "d"]}, TEXT,
        votes=((A, B), (A, "c"), (A, "d"))),
    one("02 three against one", {"prompt": Q, "chosen": [A, "c", "d"], "rejected": [B]}, TEXT,
        votes=((A, B), ("c", B), ("d", B))),
    one("02 parquet", {"prompt": Q, "chosen": [A], "rejected": [B, "c"]}, TEXT, kind="parquet",
        votes=((A, B), (A, "c"))),
    one("02 csv", {"prompt": Q, "chosen": json.dumps([A]), "rejected": json.dumps([B, "c"])}, TEXT,
        kind="csv", votes=((A, B), (A, "c"))),
    one("02 csv as Python prints it", {"prompt": Q, "chosen": repr([A]), "rejected": repr([B])},
        TEXT, kind="csv"),
    one("02 a text alone against a list", {"prompt": Q, "chosen": A, "rejected": [B, "c"]}, TEXT,
        votes=((A, B), (A, "c"))),
    one("02 a list against a text alone", {"prompt": Q, "chosen": [A], "rejected": B}, TEXT),
    one("02 lists of conversations", {"prompt": Q, "chosen": [[SAID]], "rejected": [[WRONG]]},
        TEXT),
    one("02 a question", {"question": Q, "chosen": [A], "rejected": [B]}),
    one("02 with a system turn", {"prompt": Q, "system": SHORT, "chosen": [A], "rejected": [B]},
        RULED),
    one("02 messages as prompt", {"prompt": [ASKED], "chosen": [A], "rejected": [B]}),
    one("02 chosen and rejected too", {"prompt": Q, "chosen": [A], "rejected": [B, A]}, TEXT),
    one("02 empty and null answers", {"prompt": Q, "chosen": [A], "rejected": [B, "", None]}, TEXT),
    Case("02 nothing chosen", [{"prompt": Q, "chosen": [], "rejected": [B]},
                               {"prompt": Q, "chosen": [A], "rejected": [B]}], TEXT, kept=1),
    Case("02 lists and texts mixed", [{"prompt": Q, "chosen": [A], "rejected": [B]},
                                      {"prompt": Q, "chosen": A, "rejected": B}], TEXT),
    one("02 LLaMA-Factory's older pairs", {"instruction": Q, "input": "", "output": [A, B]}),
    no("02 three outputs of which none is said best", {"instruction": Q, "output": [A, B, "c"]},
       ":1: `output`", "the better and the worse"),
    no("02 numbers", {"prompt": "2+2", "chosen": [4], "rejected": [5]}, "`chosen[0]`", "a string"),
    no("02 the number of the chosen", {"prompt": Q, "completions": [A, B], "chosen": 0},
       "`chosen` would be left out", "--format answers"),
    one("02 answers that nobody judged", {"prompt": Q, "completions": [A, B]}, TEXT, votes=()),
    no("02 ratings", {"prompt": Q, "completions": [A, B], "ratings": [2, 1]},
       "--columns scores=ratings", "--format answers"),
    one("02 ranks with a tie", {"prompt": Q, "completions": [A, B, "c"], "ranks": [1, 2, 2]}, TEXT,
        votes=((A, B), (A, "c"))),
    one("02 equal scores", {"prompt": Q, "completions": [A, B], "scores": [1, 1]}, TEXT, votes=(),
        score=1.0),
]  # fmt: skip

SAIL = {"name": "sail", "parameters": {"type": "object", "properties": {"boat": {}}}}
TOOL = {"type": "function", "function": SAIL}
TOOLS: dict[str, tuple[Any, bool]] = {
    "a list": ([TOOL], True), "text": (json.dumps([TOOL]), True), "one": (TOOL, True),
    "one as text": (json.dumps(TOOL), True), "a list of texts": ([json.dumps(TOOL)], True),
    "as Python prints it": (repr([TOOL]), True), "nothing": (None, False), "empty": ([], False),
    "empty text": ("[]", False), "null as text": ("null", False), "blank": (" ", False),
    "other words": ("hammer and saw", False),
}  # fmt: skip
"""What stands in a column `tools`, and whether it is TOOL."""
CALLED = '{"name": "sail", "arguments": {"boat": "b"}}'


def call(arguments: Any = None, **more: Any) -> dict[str, Any]:
    function = {"name": "sail", "arguments": {"boat": "b"} if arguments is None else arguments}
    return S | {"content": None, "tool_calls": [{"id": "c", "function": function}], **more}


def calling(turn: Any, name: str = "", **more: Any) -> Case:
    row = {"prompt": [ASKED], "chosen": [turn], "rejected": [WRONG], **more.pop("beside", {})}
    return one(name, row, **({"votes": ((CALLED, B),)} | more))


CALLS = [
    calling(call(), "05 an object"),
    calling(call('{"boat": "b"}'), "05 text"),
    calling(call(' {"boat": "b"}\n'), "05 text with spaces"),
    calling(call(json.dumps('{"boat": "b"}')), "05 text written as text"),
    calling(call({"boat": "b", "port": None}), "05 a null inside"),
    calling(call('{"boat": "b", "port": null}'), "05 a null inside text"),
    calling(call(""), "05 no arguments", votes=(('{"name": "sail", "arguments": {}}', B),)),
    calling(call({}), "05 an empty object", votes=(('{"name": "sail", "arguments": {}}', B),)),
    calling(S | {"tool_calls": [{"name": "sail", "parameters": {"boat": "b"}}]}, "05 parameters"),
    calling(S | {"tool_calls": json.dumps([{"name": "sail", "arguments": {"boat": "b"}}])},
            "05 calls as text"),
    calling(S | {"tool_calls": {"function": {"name": "sail", "arguments": '{"boat": "b"}'}}},
            "05 one call, no list"),
    calling(S | {"content": "", "function_call": {"name": "sail", "arguments": '{"boat": "b"}'}},
            "05 function_call of 2023"),
    calling(S | {"content": None, "function_call": {"name": "sail", "arguments": {"boat": "b"}}},
            "05 function_call without content"),
    one("05 two calls that differ", {"prompt": [ASKED], "chosen": [call()],
                                     "rejected": [call({"boat": "z"})]},
        votes=((CALLED, CALLED.replace('"b"', '"z"')),)),
    no("05 two calls that are the same", {"prompt": [ASKED], "chosen": [call()], "rejected": [
        call('{"boat":"b"}')]}, "identical answers"),
    *(no(f"05 {name}", {"prompt": [ASKED], "chosen": [call(value)], "rejected": [WRONG]},
         ":1: `chosen[0].tool_calls[0].function.arguments`")
      for name, value in {"as Python prints it": "{'boat': 'b'}", "a list": ["b"], "a number": 3,
                          "cut short": '{"boat": ', "a key twice": '{"a": 1, "a": 2}'}.items()),
]  # fmt: skip

PART = {"type": "text", "text": A}
PARTS = [
    one("07 parts", {"prompt": [ASKED], "chosen": [S | {"content": [PART]}], "rejected": [WRONG]}),
    one("07 one part alone", {"prompt": [ASKED], "chosen": [S | {"content": PART}],
                              "rejected": [WRONG]}),
    one("07 parts without a speaker", {"prompt": [{"type": "text", "text": Q}],
                                       "chosen": [PART], "rejected": B}, TEXT),
    one("07 Arrow's null beside the text", {"prompt": [ASKED], "chosen": [
        S | {"content": [PART | {"image_url": None}]}], "rejected": [WRONG]}),
    one("07 parts in CSV", {"prompt": Q, "chosen": json.dumps([S | {"content": [PART]}]),
                            "rejected": json.dumps([WRONG])}, kind="csv"),
    one("07 parts of ShareGPT", {"conversations": [H | {"value": [{"type": "text", "text": Q}]}],
                                 "chosen": G, "rejected": W}),
    one("07 a text beside parts", {"prompt": [ASKED], "chosen": [SAID], "rejected": [
        S | {"content": [{"type": "text", "text": B}]}]}),
    one("07 images, none there", asking("prompt") | {"images": []}, TEXT),
    one("07 image, null", asking("prompt") | {"image": None}, TEXT),
    no("07 no part", {"prompt": [ASKED], "chosen": [S | {"content": []}], "rejected": [WRONG]},
       "empty answer"),
    no("07 a picture", {"prompt": [U | {"content": [{"type": "image"}, PART]}], **PAIR},
       "`prompt[0].content[0]`", "pictures are not read"),
    no("07 a picture by URL", {"prompt": [U | {"content": [{"type": "image_url",
       "image_url": {"url": "x"}}]}], **PAIR}, "pictures are not read"),
    no("07 images beside", asking("prompt") | {"images": ["a.png"]}, ":1: `images`", "pictures"),
    no("07 image bytes", asking("prompt") | {"image": {"bytes": b"a", "path": "a"}}, "[0]: `image`",
       kind="parquet"),
    no("07 LLaVA", {"image": "a.jpg", "conversations": [H, G]}, "`image`"),
    no("07 thinking", {"prompt": [ASKED], "chosen": [S | {"content": [
        {"type": "thinking", "thinking": "hm"}, PART]}], "rejected": [WRONG]}, "`thinking`"),
    no("07 a part without text", {"prompt": [ASKED], "chosen": [S | {"content": [
        {"type": "text", "text": None}]}], "rejected": [WRONG]}, "`chosen[0].content[0]`"),
]  # fmt: skip

BIG, DIGITS = 10**400, "7" * 5000
FINE = json.dumps(asking("prompt"))
NUMBERS = [
    no("08 margin", asking("prompt") | {"margin": BIG}, ":1: `margin`", "401 digits"),
    no("08 p_chosen", asking("prompt") | {"p_chosen": BIG}, ":1: `p_chosen`"),
    no("08 scores", {"prompt": Q, "completions": [A, B], "scores": [1, BIG]}, ":1: `scores[1]`"),
    no("08 label", {"prompt": Q, "completion": A, "label": BIG}, ":1: `label`"),
    no("08 preference", {"instruction": Q, "output_1": A, "output_2": B, "preference": BIG},
       ":1: `preference`"),
    no("08 strength", {"prompt": Q, "response_1": A, "response_2": B, "preference_strength": -BIG},
       ":1: `preference_strength`"),
    no("08 rating inside", {"instruction": Q, "completions": [
        {"response": A, "overall_score": BIG}]}, ":1 completions[0]: `overall_score`"),
    no("08 a number as prompt", {"prompt": BIG, **PAIR}, ":1: `prompt`", "401 digits"),
    no("08 csv", asking("prompt") | {"margin": "1" * 401}, ":2: `margin`", kind="csv"),
    no("08 csv, not a number", asking("prompt") | {"margin": "nan"}, ":2: `margin`", kind="csv"),
    Case("08 infinity", FINE[:-1] + ', "margin": 1e400}', refused=(":1: `margin` is inf",)),
    Case("08 digits", f'{FINE}\n{FINE[:-1]}, "id": {DIGITS}}}', refused=(":2: not JSON",)),
    Case("08 digits in a list", f'[\n{FINE},\n{FINE[:-1]}, "n": {DIGITS}}}]', kind="json",
         refused=("line 3",)),
    one("08 as an id", asking("prompt") | {"id": BIG}, TEXT),
    one("08 beside the prompt", asking("prompt") | {"views": BIG}, TEXT),
    one("08 in a call", {"prompt": [ASKED], "chosen": [call({"n": BIG})], "rejected": [WRONG]},
        votes=((f'{{"name": "sail", "arguments": {{"n": {BIG}}}}}', B),)),
    one("08 Parquet's decimals", asking("prompt") | {"margin": Decimal("1.5")}, TEXT,
        kind="parquet"),
]  # fmt: skip


def thumb(label: Any, score: float | None = None, *refused: str) -> Case:
    row = {"prompt": Q, "completion": A, "label": label}
    if score is None:
        return no(f"10 {label!r}", row, *refused)
    return one(f"10 {label!r}", row, TEXT, votes=(), score=score)


THUMBS = [
    *(thumb(x, 1.0) for x in (True, 1, 1.0, "True", "good", "yes", "👍", "👍🏽", "thumbs_up", "Up",
                              "positive", "desirable", "like", "1.0", "chosen", "pass")),
    *(thumb(x, 0.0) for x in (False, 0, 0.0, "FALSE ", "bad", "No", "👎", "thumbs down",
                              "undesirable", "dislike", "rejected", "0", "fail")),
    *(thumb(x, 0.0) for x in (-1, "-1", -1.0, " -1 ")),
    *(Case(f"10 {good!r} and {bad!r}", [{"prompt": Q, "completion": A, "label": good},
                                        {"prompt": Q, "completion": B, "label": bad}],
           TEXT, (), 1.0) for good, bad in ((1, -1), ("1", "-1"), (1.0, 0.0), ("+1", -1))),
    *(Case(f"10 -1, 0 and 1 {kind}", [{"prompt": f"{k}. {Q}", "completion": A, "label": k % 3 - 1}
                                      for k in range(n)], kind=kind,
           refused=("`label` is 0, and at", "it is -1", "neither", "leave the rows with 0 out"))
      for kind, n in (("jsonl", 3), ("csv", 3), ("parquet", 200))),
    Case("10 a rating of -1 and 1", [{"prompt": Q, "completion": A, "rating": 1},
                                     {"prompt": Q, "completion": B, "rating": -1}],
         refused=("`rating`", "--columns label=rating", "--format prompt-completion")),
    *(thumb(x, None, ":1: `label`") for x in (2, -2, 0.7, "maybe", "", [True])),
    thumb(None, None, "no label given"),
    one("10 kto_tag", {"instruction": Q, "output": A, "kto_tag": True}, votes=(), score=1.0),
    one("10 ShareGPT", {"conversations": [H, G], "kto_tag": "good"}, votes=(), score=1.0),
    one("10 messages", {"messages": [ASKED, SAID], "label": False}, votes=(), score=0.0),
    one("10 messages apart", {"prompt": [ASKED], "completion": [SAID], "label": 1}, votes=(),
        score=1.0),
    Case("10 unlabelled rows", [{"prompt": Q, "completion": A, "label": 1.0},
                                {"prompt": Q, "completion": B, "label": None}], TEXT, (), 1.0,
         kind="parquet", kept=1),
    Case("10 csv", [{"prompt": Q, "completion": A, "label": "👍"},
                    {"prompt": Q, "completion": B, "label": ""}], TEXT, (), 1.0, kind="csv",
         kept=1),
    *(Case(f"10 {column}", [{"prompt": Q, "completion": A, column: good},
                            {"prompt": Q, "completion": B, column: bad}],
           refused=(f"`{column}`", f"--columns label={column}", "--format prompt-completion"))
      for column, good, bad in (("thumbs_up", True, False), ("feedback", "good", "bad"),
                                ("Rating", 1, 0))),
    Case("10 Alpaca", [{"instruction": Q, "output": A, "label": True},
                       {"instruction": Q, "output": B, "label": False}],
         refused=("--columns kto_tag=label",)),
    no("10 response", {"prompt": Q, "response": A, "label": True}, "`response` would be left out",
       "--columns completion=response"),
    no("10 question and answer", {"question": Q, "answer": A, "label": 1},
       "--columns prompt=question,completion=answer"),
    no("10 labels of steps", {"prompt": Q, "completions": [A, B], "labels": [True, False]},
       "`labels` would be left out"),
]  # fmt: skip


def study(result: Any, **data: Any) -> dict[str, Any]:
    known = data or {"prompt": Q, "answer1": A, "answer2": B}
    return {"id": 1, "data": known, "annotations": [{"completed_by": 3, "result": result}]}


def side(chosen: str) -> list[Any]:
    return [{"type": "pairwise", "value": {"selected": chosen}}]


MESSAGES = {"messages": [ASKED]}
SHAPES = [
    one("11 ShareGPT objects", {"conversations": [H], "chosen": G, "rejected": W}),
    one("11 ShareGPT lists", {"conversations": [H], "chosen": [G], "rejected": [W]}),
    one("11 ShareGPT texts", {"conversations": [H], **PAIR}),
    one("11 ShareGPT whole", {"conversations": [H], "chosen": [H, G], "rejected": [H, W]}),
    one("11 ShareGPT system", {"conversations": [H], "system": SHORT, "chosen": G, "rejected": W},
        RULED),
    one("11 ShareGPT by roles", {"conversations": [{"role": "human", "content": Q}],
                                 "chosen": {"role": "gpt", "content": A},
                                 "rejected": {"role": "gpt", "content": B}}),
    one("11 ShareGPT capitals", {"conversations": [H | {"from": "Human"}, G | {"from": "GPT"}]},
        votes=()),
    one("11 chatgpt", {"conversations": [H, G | {"from": "chatgpt"}]}, votes=()),
    no("11 nobody known", {"conversations": [H, G | {"from": "bing"}]}, "[1].from` is 'bing'"),
    one("11 OpenAI", {"input": MESSAGES, "preferred_output": [SAID],
                      "non_preferred_output": [WRONG]}),
    one("11 OpenAI objects", {"input": MESSAGES, "preferred_output": SAID,
                              "non_preferred_output": WRONG}),
    one("11 OpenAI Parquet", {"input": MESSAGES | {"tools": None}, "preferred_output": [SAID],
                              "non_preferred_output": [WRONG]}, kind="parquet"),
    one("11 OpenAI CSV", {"input": json.dumps(MESSAGES), "preferred_output": json.dumps([SAID]),
                          "non_preferred_output": json.dumps([WRONG])}, kind="csv"),
    one("11 OpenAI messages", {"input": [ASKED], "preferred_output": [SAID],
                               "non_preferred_output": [WRONG]}),
    one("11 Label Studio", study(side("left")), kind="json"),
    one("11 Label Studio right", study(side("right")), kind="json", votes=((B, A),)),
    one("11 Label Studio lines", study(side("left"))),
    one("11 Label Studio letters", study(side("left"), question=Q, response_a=A, response_b=B)),
    one("11 Label Studio messages", study(side("left"), messages=[ASKED], answer1=A, answer2=B)),
    one("11 Label Studio short", {"prompt": Q, "answer1": A, "answer2": B, "annotation_id": 2,
                                  "annotator": 1, "id": 1, "better": "right"}, TEXT, kind="json",
        votes=((B, A),)),
    Case("11 Label Studio not annotated", [study(side("left")), study([]) | {"annotations": []}],
         CHAT, kept=1),
    no("11 Label Studio choices", study([{"type": "choices", "value": {"choices": ["1"]}}]),
       "without a pairwise choice"),
    no("11 Label Studio other names", study(side("left"), prompt=Q, model_a=A, model_b=B),
       "answer1, answer2"),
    one("11 messages of another name", {"messages": [ASKED, SAID | {"weight": 1}]}, votes=()),
    no("11 no turn to train on", {"messages": [ASKED, SAID | {"weight": 0}]}, "weight 0"),
    no("11 half a weight", {"messages": [ASKED, SAID | {"weight": 0.5}]}, "`messages[1].weight`"),
    no("11 dialog", {"dialog": [ASKED, SAID]}, "--columns messages=dialog"),
    one("11 whole texts", {"text": f"### Human: {Q}### Assistant: {A}"}, "", votes=()),
    one("11 whole texts and facts", {"text": A, "title": "Barges", "url": "x"}, "", votes=()),
    *(Case(f"11 whole texts, one empty {kind}", [{"text": A, "x": 1}, {"text": "", "x": 2}],
           votes=(), kept=1, kind=kind) for kind in ("jsonl", "csv")),
    no("11 a text with a label", {"text": A, "label": 1}, "`label`", "--format text"),
    no("11 a text with a summary", {"text": A, "summary": "Barge."}, "`summary`", "--format text"),
    no("11 a text with a question", {"text": A, "question": Q, "answer": "x"}, "`question`",
       "--format text"),
    no("11 a text that is a list", {"text": [1, 2]}, ":1: `text`"),
]  # fmt: skip

ROW = {"prompt": Q, "chosen": A, "rejected": B}
LINE = json.dumps(ROW) + "\n"
CONTAINERS = [
    Case("BOM", "﻿".encode() + LINE.encode(), TEXT),
    Case("CRLF", LINE.replace("\n", "\r\n") * 2, TEXT),
    Case("a list in .jsonl", json.dumps([ROW], indent=1), TEXT),
    Case("a list in one line of .jsonl", json.dumps([ROW, ROW]), TEXT),
    Case("lines in .json", LINE * 2, TEXT, kind="json"),
    Case("a list inside an object", json.dumps({"version": 1, "data": [ROW]}), TEXT, kind="json"),
    Case("two lists", json.dumps({"train": [ROW], "test": [ROW]}), kind="json",
         refused=("train, test", "a file of its own")),
    Case("semicolons", "prompt;chosen;rejected\nq;a, b;c\n", "q", (("a, b", "c"),), kind="csv"),
    Case("tabs", "prompt\tchosen\trejected\nq\ta\tb\n", "q", (("a", "b"),), kind="tsv"),
    Case("gz", gzip.compress(LINE.encode()), TEXT, kind="jsonl.gz"),
    Case("UTF-16", LINE.encode("utf-16"), refused=("not UTF-8", "iconv -f utf-16")),
    Case("Latin-1", LINE.replace("barge", "b\xe4rge").replace("\\u00e4", "\xe4").encode("latin1"),
         refused=("not UTF-8", "iconv -f latin1")),
    one("Parquet", ROW, TEXT, kind="parquet"),
    one("Arrow stream", ROW, TEXT, kind="arrow"),
    one("Feather", ROW, TEXT, kind="feather"),
    one("messages as text", {k: json.dumps([v]) for k, v in
                             (("prompt", ASKED), ("chosen", SAID), ("rejected", WRONG))}),
    one("messages as Python prints them", {k: repr([v]) for k, v in (
        ("prompt", ASKED), ("chosen", SAID), ("rejected", WRONG))}, kind="csv"),
    one("messages with spaces", {"prompt": Q, "chosen": f"[ {json.dumps(SAID)} ]",
                                 "rejected": f"[\n{json.dumps(WRONG)}]"}, kind="csv"),
    no("messages as NumPy prints them", {"prompt": Q, "chosen": f"[{ASKED}\n {SAID}]",
                                         "rejected": f"[{ASKED}\n {WRONG}]"}, "`chosen`", "JSON",
       kind="csv"),
    one("lists as answers in CSV", {"prompt": Q, "chosen": "[1, 2]", "rejected": '["a"]'}, TEXT,
        kind="csv", votes=(("[1, 2]", '["a"]'),)),
    Case("a list as one answer of CSV", [
        {"question": Q, "chosen": '["a", "b"]', "rejected": "c"}, {"question": Q, **PAIR}], CHAT,
        (('["a", "b"]', "c"),), kind="csv"),
    one("JSON as an answer", {"prompt": Q, "chosen": '{"role": "admin"}', "rejected": "[1, 2]"},
        TEXT, votes=(('{"role": "admin"}', "[1, 2]"),)),
    Case("texts and messages mixed", [ROW, {"prompt": [ASKED], "chosen": [SAID],
                                            "rejected": [WRONG]}], TEXT),
    Case("rows that say nothing", [ROW, ROW | {"chosen": B}, ROW | {"rejected": " "},
                                   ROW | {"prompt": "  "}], TEXT, kept=1),
]  # fmt: skip

HUMAN, BOT = "\n\nHuman: ", "\n\nAssistant:"
PUBLISHED = [
    one("HH", {"chosen": f"{HUMAN}{Q}{BOT} {A}", "rejected": f"{HUMAN}{Q}{BOT} {B}"}),
    one("HH of several turns", {
        "chosen": f"{HUMAN}hi{BOT} hello{HUMAN}{Q}{BOT} {A}",
        "rejected": f"{HUMAN}hi{BOT} hello{HUMAN}{Q}{BOT} {B}"}, TALKED),
    one("PKU-SafeRLHF", {"prompt": Q, "response_0": B, "response_1": A, "better_response_id": 1,
                         "safer_response_id": 0, "is_response_0_safe": True}, TEXT),
    no("PKU-SafeRLHF, neither", {"prompt": Q, "response_0": B, "response_1": A,
                                 "better_response_id": 2}, "0 or 1"),
    one("SHP", {"post_id": "x", "history": Q, "human_ref_A": A, "human_ref_B": B, "labels": 1,
                "score_A": 5, "score_B": 2}, TEXT),
    one("SHP, the second", {"history": Q, "human_ref_A": B, "human_ref_B": A, "labels": 0}, TEXT),
    one("WebGPT", {"question": Q, "answer_0": A, "answer_1": B, "score_0": 0.5, "score_1": -0.5},
        score=0.5),
    one("WebGPT, published", {"question": {"dataset": "eli5", "id": "x", "full_text": Q},
        "quotes_0": {"title": ["a"], "extract": ["b"]}, "answer_0": B, "answer_1": A,
        "tokens_0": {"prefix": [1], "completion": [2]}, "score_0": -1.0, "score_1": 1.0},
        kind="parquet", score=-1.0),
    one("WebGPT, a tie", {"question": Q, "answer_0": A, "answer_1": B, "score_0": 0, "score_1": 0},
        votes=(), score=0.0),
    no("WebGPT without a question", {"question": {"id": "x"}, "answer_0": A, "answer_1": B,
                                     "score_0": 0, "score_1": 1}, ":1: `question`"),
    one("TL;DR", {"info": {"id": "t3", "post": Q, "title": "Barges", "subreddit": "boats"},
                  "summaries": [{"text": B, "policy": "ref"}, {"text": A, "policy": "sup4"}],
                  "choice": 1, "worker": "w"},
        f"SUBREDDIT: r/boats\n\nTITLE: Barges\n\nPOST: {Q}\n\nTL;DR:"),
    one("TL;DR, news", {"info": {"id": "c", "post": None, "title": None, "article": Q},
                        "summaries": [{"text": A}, {"text": B}], "choice": 0},
        f"ARTICLE: {Q}\n\nTL;DR:", kind="parquet"),
    no("TL;DR, three", {"info": {"post": Q}, "summaries": [{"text": A}], "choice": 0},
       "`summaries`", "two"),
    no("TL;DR, nobody chosen", {"info": {"post": Q}, "summaries": [{"text": A}, {"text": B}],
                                "choice": 2}, "`choice`", "0 or 1"),
    no("TL;DR without a post", {"info": {"id": "x"}, "summaries": [{"text": A}, {"text": B}],
                                "choice": 1}, "`article`"),
    one("Nectar", {"prompt": f"{HUMAN}{Q}{BOT} ", "num_responses": 2, "turns": 1, "answers": [
        {"answer": B, "model": "x", "rank": 2.0}, {"answer": A, "model": "y", "rank": 1.0}]}),
    one("Nectar, a tie", {"prompt": Q, "answers": [{"answer": B, "rank": 1.0},
                                                   {"answer": A, "rank": 1.0}]}, TEXT, votes=()),
    one("UltraFeedback", {"source": "x", "instruction": Q, "models": ["a", "b"], "completions": [
        {"model": "a", "response": A, "overall_score": 8.5, "fine-grained_score": 4.0},
        {"model": "b", "response": B, "overall_score": 9.5, "fine-grained_score": 2.0}]},
        score=4.0),
    one("UltraFeedback, binarized", {"prompt": Q, "prompt_id": "x", **whole(), "messages": [
        ASKED, SAID], "score_chosen": 8.5, "score_rejected": 3.0}),
    one("Argilla's mix", {"dataset": "x", **whole(), "chosen_rating": 5.0, "rejected_rating": 3.0}),
    one("HelpSteer3", {"domain": "x", "context": [ASKED], "response1": B, "response2": A,
                       "overall_preference": 2}),
    one("HelpSteer2's preferences", {"prompt": Q, "response_1": A, "response_2": B,
                                     "preference_strength": -2}, TEXT),
    Case("HelpSteer2", [{"prompt": Q, "response": A, "helpfulness": 4, "verbosity": 1},
                        {"prompt": Q, "response": B, "helpfulness": 1, "verbosity": 1}], TEXT,
         score=4.0, kept=1),
    one("arena", {"conversation_a": [ASKED, SAID], "conversation_b": [ASKED, WRONG],
                  "winner": "model_a", "model_a": "x", "model_b": "y"}),
    no("arena, nobody known", {"conversation_a": [ASKED, SAID], "conversation_b": [ASKED, WRONG],
                               "winner": "x"}, "`winner`", "model_a"),
    one("arena as a table", {"prompt": json.dumps([Q]), "response_a": json.dumps([B]),
                             "response_b": json.dumps([A]), "winner_model_a": 0,
                             "winner_model_b": 1, "winner_tie": 0}, kind="csv"),
    one("verl", {"data_source": "x", "prompt": [ASKED], "reward_model": {"ground_truth": "7"}},
        votes=(), kind="parquet"),
    one("TRL's prompts with a solution", {"prompt": Q, "solution": "7"}, TEXT, votes=()),
]  # fmt: skip

ALL = [*QUESTIONS, *SEVERAL, *CALLS, *PARTS, *NUMBERS, *THUMBS, *SHAPES, *CONTAINERS, *PUBLISHED]


def write(folder: Path, case: Case) -> Path:
    path = folder / f"data.{case.kind}"
    rows = case.rows
    if isinstance(rows, str | bytes):
        path.write_bytes(rows.encode() if isinstance(rows, str) else rows)
    elif case.kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif case.kind in ("parquet", "arrow", "feather"):
        write_arrow(path, pa.Table.from_pylist(rows), case.kind)
    else:
        several = json.dumps(rows) if case.kind == "json" else "\n".join(map(json.dumps, rows))
        path.write_text(several, encoding="utf-8")
    return path


def write_arrow(path: Path, table: Any, kind: str) -> None:
    if kind == "parquet":
        pq.write_table(table, path)
        return
    opener = pa.ipc.new_stream if kind == "arrow" else pa.ipc.new_file
    with opener(str(path), table.schema) as sink:
        sink.write_table(table)


def said(group: Group) -> str:
    asked = group.prompt
    if asked.messages is None:
        return asked.text
    return "|".join(f"{turn['role']}:{turn.get('content')}" for turn in asked.messages)
