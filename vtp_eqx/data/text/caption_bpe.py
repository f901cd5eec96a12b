"""Captions as token ids: byte-level byte-pair encoding, learned from the captions.

A sequence is `start, words, end, padding`. Padding is 0, and the end token has the
largest id of all: the text tower is read at the position of the largest id.
Bytes are the alphabet, so that no text is out of vocabulary.
"""

from collections.abc import Iterable, Sequence
import dataclasses
from pathlib import Path
import re

from jaxtyping import Int32
import numpy as np
from tokenizers import decoders, models, pre_tokenizers, Tokenizer, trainers

from vtp_eqx.config import first_sentence, require
from vtp_eqx.files import write_text


PAD = "<|pad|>"
START = "<|startoftext|>"
END = "<|endoftext|>"
_SPECIAL = re.compile("|".join(re.escape(token) for token in (PAD, START, END)))
_NUM_BYTES = 256


def clean(text: str) -> str:
    """`text` in lower case, with single spaces, free of special tokens."""
    # Repeated, because removing one token may join the halves of another.
    while (shorter := _SPECIAL.sub("", text)) != text:
        text = shorter
    return " ".join(text.lower().split())


@dataclasses.dataclass(frozen=True)
class CaptionTokenizer:
    """A learned vocabulary; `encode` maps captions to ids."""

    pieces: Tokenizer

    def __post_init__(self):
        require(
            self.pieces.token_to_id(PAD) == 0
            and self.pieces.token_to_id(START) == self.vocabulary - 2
            and self.pieces.token_to_id(END) == self.vocabulary - 1,
            f"A caption vocabulary begins with {PAD} and ends with {START}, {END}; got "
            f"{self.vocabulary} tokens without that order: use `train_tokenizer`.",
        )

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return self.pieces.get_vocab_size(with_added_tokens=True)

    def encode(
        self, texts: Iterable[str], context: int, *, truncate: bool = False
    ) -> Int32[np.ndarray, "n {context}"]:
        """Start, words, end and zeros for each text.

        Raises `ValueError` where a text does not fit into `context` tokens, unless
        `truncate`: then its last words go, and the end token stays.
        """
        texts = [clean(text) for text in texts]
        return encode_rows(
            [encoding.ids for encoding in self.pieces.encode_batch_fast(texts)],
            texts,
            context,
            vocabulary=self.vocabulary,
            truncate=truncate,
        )

    def decode(self, ids: Int32[np.ndarray, "n context"]) -> list[str]:
        """The cleaned texts again."""
        # The first word carries a space like every other one.
        return [
            text.removeprefix(" ") for text in self.pieces.decode_batch(ids.tolist())
        ]

    def save(self, path: str | Path) -> None:
        """Writes the vocabulary to one JSON file."""
        write_text(path, self.pieces.to_str())

    @classmethod
    def load(cls, path: str | Path) -> "CaptionTokenizer":
        """The tokenizer that `save` wrote.

        Raises `FileNotFoundError` or, where the file is none of ours, `ValueError`.
        """
        content = Path(path).read_bytes()
        try:
            pieces = Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare exceptions
            raise ValueError(
                f"{path} is not a complete caption vocabulary "
                f"({first_sentence(error)}): write it again with `save`."
            ) from error
        return cls(pieces)


def encode_rows(
    words: Sequence[Sequence[int]],
    texts: Sequence[str],
    context: int,
    *,
    vocabulary: int,
    truncate: bool,
) -> Int32[np.ndarray, "n {context}"]:
    """Start, words, end and zeros for each text, whose ids are `words`.

    Start and end are the last two tokens of the vocabulary. For `truncate` see
    `CaptionTokenizer.encode`.
    """
    require(
        context >= 2,
        "A context must hold the start and the end token; "
        f"got {context} tokens: enlarge it.",
    )
    ids = np.zeros((len(texts), context), np.int32)
    for row, (text, own) in enumerate(zip(texts, words, strict=True)):
        require(
            truncate or len(own) + 2 <= context,
            f"A caption must fit into {context} tokens; got {len(own) + 2} for "
            f"{text!r}: enlarge `context`, or pass `truncate=True`.",
        )
        sequence = [vocabulary - 2, *own[: context - 2], vocabulary - 1]
        ids[row, : len(sequence)] = sequence
    return ids


def train_tokenizer(captions: Iterable[str], vocabulary: int) -> CaptionTokenizer:
    """A vocabulary of at most `vocabulary` tokens, learned from `captions`.

    It is smaller where the captions have no more pairs to merge; read the number from
    the result.
    """
    require(
        vocabulary >= _NUM_BYTES + 3,
        f"A byte-level vocabulary needs {_NUM_BYTES + 3} tokens or more; "
        f"got {vocabulary}: enlarge it.",
    )
    pieces = Tokenizer(models.BPE())
    # The space before a word is part of it, in front of the first word too: a word has
    # the same ids wherever it stands.
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        special_tokens=[PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator((clean(text) for text in captions), trainer)
    pieces.add_special_tokens([START, END])  # after everything learned
    return CaptionTokenizer(pieces)
