"""The part of a response that may hold its answer, by the marks that Qwen models write around their reasoning and at the end.

`vlrl.tasks.score_response` passes only this part to a task's verifier, so that every task treats reasoning alike.
"""

OPENING, CLOSING = "<think>", "</think>"
_ENDS = ("<|im_end|>", "<|endoftext|>")


def after_reasoning(response: str) -> str:
    """The part of the response that may hold the answer: after the last `</think>`, and before an unclosed `<think>`.

    A reasoning that the prompt opened begins with `<think>` in the response's text too (see Rollout.text), so it is empty if the
    response was cut off in its reasoning. An end token that another program left at the end of the text is not part of it.

    >>> after_reasoning("<think>2+2</think> 4<|endoftext|>"), after_reasoning("<think>2+2 is")
    (' 4', '')
    """
    answer = response.rpartition(CLOSING)[2].partition(OPENING)[0]
    while (ended := answer.rstrip()).endswith(_ENDS):
        answer = ended[: ended.rindex("<|")]
    return answer


def opened_reasoning(prompt: str) -> str:
    """What the prompt's text already wrote of the response: from a `<think>` that it leaves open to its end, otherwise "".

    >>> opened_reasoning("<|im_start|>assistant\\n<think>\\n"), opened_reasoning("assistant\\n<think>\\n\\n</think>\\n\\n")
    ('<think>\\n', '')
    """
    last = prompt.rpartition(CLOSING)[2]
    return last[last.rindex(OPENING) :] if OPENING in last else ""
