"""Grade-school problems with one number as the answer: GSM8K and files like it.

`--model PATH --data FILE` with the columns `question` and `answer` ("... #### 42") is this task;
`tandem.data.formats` recognises them. The forms are those of LMSI (arXiv:2210.11610, table 2); the
worked examples are our own.
"""

from __future__ import annotations

from tandem.data.verifiable import PromptStyle, QuestionFormat, StatedAnswer

WORKED = (
    (
        "A shelf holds 6 rows of 8 jars. 15 jars are sold. How many jars are left?",
        "There are 6 * 8 = 48 jars at first. 48 - 15 = 33 jars are left. The answer is 33.",
        "33",
    ),
    (
        "Mara walks 3 km each morning and half of that each evening. How far does she walk in "
        "a week?",
        "In the evening she walks 3 / 2 = 1.5 km. A day is 3 + 1.5 = 4.5 km, and a week is "
        "4.5 * 7 = 31.5 km. The answer is 31.5.",
        "31.5",
    ),
    (
        "A ticket costs $12, and children pay $5 less. What do 2 adults and 3 children pay?",
        "A child pays 12 - 5 = 7 dollars. The adults pay 2 * 12 = 24 dollars and the children "
        "3 * 7 = 21 dollars, together 24 + 21 = 45 dollars. The answer is 45.",
        "45",
    ),
    (
        "Tom has 1,200 stamps. He gives a quarter of them to each of his two sisters. How many "
        "does he keep?",
        "A quarter is 1200 / 4 = 300 stamps. He gives away 2 * 300 = 600 and keeps "
        "1200 - 600 = 600. The answer is 600.",
        "600",
    ),
)
REASONED = tuple((question, path) for question, path, _ in WORKED)
STATED = tuple((question, f"The answer is {answer}.") for question, _, answer in WORKED)

GSM8K_WORDING = QuestionFormat(
    read=StatedAnswer(),
    forms=(
        PromptStyle("few-shot-path", shots=REASONED),
        PromptStyle("few-shot-answer", shots=STATED, target="answer"),
        PromptStyle("step-by-step", " Let's think step by step."),
        PromptStyle("question-answer", target="answer"),
    ),
)
