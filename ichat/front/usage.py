"""How many tokens an answer says it took: read off its last bytes, which is where engines write it."""

from __future__ import annotations

import re

#: What an engine writes behind the tokens it counted is shorter.
TAIL_BYTES = 1024

_KEY = b'"usage"'
#: OpenAI's words, and those of the Responses and the Messages API. A quote within a text of the model is escaped, so
#: that nothing it says looks like this.
_prompt = re.compile(rb'"(?:prompt|input)_tokens":\s?(\d{1,12})[,}\s]').search
_completion = re.compile(rb'"(?:completion|output)_tokens":\s?(\d{1,12})[,}\s]').search


#: As both engines write it for OpenAI's API, in one look.
_usual = re.compile(
    rb'"usage":\s?\{"prompt_tokens":\s?(\d{1,12}),\s?"total_tokens":\s?\d{1,12},\s?"completion_tokens":\s?(\d{1,12})[,}]'
).match


def tokens_of(answer: bytes) -> tuple[int, int] | None:
    """(of the prompt, of the completion); None: it does not say."""
    at = answer.rfind(_KEY, -TAIL_BYTES)
    if at < 0:
        return None
    if (usual := _usual(answer, at)) is not None:
        first, second = usual.groups()
        return int(first), int(second)
    prompt, completion = _prompt(answer, at), _completion(answer, at)
    return (int(prompt[1]) if prompt else 0, int(completion[1]) if completion else 0)
