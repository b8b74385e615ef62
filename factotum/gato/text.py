"""The text tokenizer: byte-level BPE, trained on the data's own text and saved with the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from factotum.core.checks import UserError
from factotum.core.files import write_text_atomic

END = "<end>"


class TextTokenizer:
    """Text to ids and back; id 0 ends a text. Differs from the paper: byte-level BPE, not SentencePiece.

    >>> tokenizer = TextTokenizer.train(["open the door", "open the red door"], size=300)
    >>> tokenizer.decode(tokenizer.encode("open the door"))
    'open the door'
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.token_to_id(END) != 0:
            raise UserError(f"tokenizer: expected {END} to have id 0, got {tokenizer.token_to_id(END)}")
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {}

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> TextTokenizer:
        """Learn at most `size` subwords; every string can be written, because all bytes are in."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path | str) -> TextTokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: missing or unreadable file.
        """
        try:
            return cls(Tokenizer.from_str(Path(path).read_text()))
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"expected a tokenizer in {path}, got: {error}") from error

    def save(self, path: Path | str) -> None:
        """Write as JSON."""
        write_text_atomic(path, self.to_json())

    def to_json(self) -> str:
        """The whole tokenizer as text."""
        return self._tokenizer.to_str()

    @property
    def size(self) -> int:
        """Number of subwords."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text, without the end."""
        if text not in self._known:
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[text] = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return self._known[text]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, up to the first end."""
        kept = []
        for token in ids:
            if token == 0:
                break
            kept.append(int(token))
        return self._tokenizer.decode(kept)
