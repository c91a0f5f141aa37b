"""What holds for the tokens of every text, whatever the tokenizer."""

from nla_gateway.pair.texts import SourceText


def check_tokens(read: SourceText) -> None:
    """Positions count up; spans are in order, cover the text, and say what the tokens' texts say."""
    covered = 0
    for position, token in enumerate(read.tokens):
        before = read.tokens[max(position - 1, 0)]
        assert token.position == position
        assert before.start <= token.start <= token.end
        assert before.end <= token.end
        assert token.start <= covered, "a gap"
        covered = token.end
        assert token.text == read.text[token.start : token.end] or (token.special and token.start == token.end)
    assert covered == len(read.text) or all(token.start == token.end for token in read.tokens)
    assert read.ids == [token.id for token in read.tokens]
