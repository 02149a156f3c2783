"""One position of a store in words: the text so far, the teacher's entries, the true next token."""

from __future__ import annotations

from typing import Any

#: tokens of the text that are shown before the position
TOKENS_BEFORE = 32
#: entries that are shown, heaviest first
ENTRIES_SHOWN = 12


def describe_position(sequence: Any, position: int, tokenizer: Any) -> str:
    """Return what the store holds of one position, as text of several lines.

    Args:
        sequence: of a store.
        position: any but the last, so that there is a next token.
        tokenizer: its `decode(ids)` gives text and its `token_strings(ids)` one string a token.
    """
    tokens = [int(token) for token in sequence.tokens]
    targets = sequence.targets.slice(position, position + 1)
    order = targets.weights.argsort(descending=True, stable=True)
    ids = targets.ids[order].tolist()
    weights = targets.weights[order].tolist()
    text = tokenizer.decode(tokens[max(0, position + 1 - TOKENS_BEFORE) : position + 1])
    following = tokens[position + 1]
    shown = ids[:ENTRIES_SHOWN]
    lines = [
        f"sequence {sequence.index}, position {position}",
        f"  the text so far:      ... {text}",
        f"  the true next token:  {tokenizer.token_strings([following])[0]!r} (id {following})",
        f"  the teacher's entries, {len(ids)} in all, weights sum to {sum(weights):.4f}:",
    ]
    for token_id, weight, string in zip(shown, weights, tokenizer.token_strings(shown), strict=False):
        mark = "  <- the true next token" if token_id == following else ""
        lines.append(f"    {weight:6.3f}  {string!r:<20} id {token_id}{mark}")
    if len(ids) > len(shown):
        lines.append(f"    {sum(weights[len(shown) :]):6.3f}  in {len(ids) - len(shown)} more")
    return "\n".join(lines)


def telling_position(sequence: Any) -> int:
    """Return a position whose target says more than one token can: nearest to 10 entries, past the beginning.

    The beginning has little text to show; the last position has no next token.
    """
    counts = sequence.targets.counts[:-1]
    first = min(TOKENS_BEFORE, len(counts) - 1)
    return first + int((counts[first:] - 10).abs().argmin())
