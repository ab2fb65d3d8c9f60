"""Whether two models mean the same by a token's id; pure."""

from __future__ import annotations

from portable.engine.backend import Spelling
from portable.errors import UsageError


def check_same(main: Spelling, draft: Spelling, name: str) -> None:
    """Raise UsageError unless the draft model spells all ids that both have as the main one does.

    One may have more ids than the other: many files fill the vocabulary up to a round number.
    """
    pairs = zip(main.tokens, draft.tokens, strict=False)
    differ = [token for token, (one, other) in enumerate(pairs) if one != other]
    if not differ:
        return
    first = differ[0]
    shown = ", ".join(map(str, differ[:5])) + (" …" if len(differ) > 5 else "")
    raise UsageError(
        f"{name} has another vocabulary: {len(differ)} of {len(main.tokens)} tokens differ"
        f" ({shown}); {first} is {_text(main.tokens[first])} for the model"
        f" and {_text(draft.tokens[first])} for the draft",
        hint="choose a small model of the same family",
        param="draft",
    )


def _text(token: bytes) -> str:
    return repr(token.decode("utf-8", "backslashreplace"))
