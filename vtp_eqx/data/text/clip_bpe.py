"""Captions as the token ids of CLIP, for text towers that were trained on them.

The byte-pair encoding of Radford et al. 2021 (https://arxiv.org/abs/2103.00020) with
their vocabulary, as open_clip and VTP use it: `start, words, end, padding`. Padding is
0, and the end token has the largest id of all. For a vocabulary learned from one's own
captions see `vtp_eqx.data.text.caption_bpe`.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import html
import itertools
import re

from jaxtyping import Int32
import numpy as np
from tokenizers import decoders, models, pre_tokenizers, Regex, Tokenizer

from vtp_eqx.data.text.caption_bpe import encode_rows
from vtp_eqx.data.text.clip_vocabulary import read_vocabulary


START = "<start_of_text>"
END = "<end_of_text>"
CONTEXT = 77
NUM_MERGES = 48894  # the file has more; these, 512 bytes and 2 ends make 49408 tokens
_WORD_END = "</w>"
# The published pattern ignores case as Python's `regex` does. That makes the long s
# (U+017F) an s, and drops the iota below a letter (U+0345).
_WORDS = pre_tokenizers.Split(
    Regex(
        r"<[s\x{17f}]tart_of_text>|<end_of_text>|'[s\x{17f}]|'t|'re|'ve|'m|'ll|'d"
        r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"
    ),
    behavior="removed",
    invert=True,
)
# Text that ftfy has nothing to repair in: it unescapes `&name;`, drops control
# characters, and judges all that is not ASCII.
_PLAIN = re.compile(r"([\t\n\r !-%'-~]|&(?!#?\w+;))*", re.ASCII)


def clean(text: str) -> str:
    """`text` repaired by ftfy, unescaped twice, with single spaces, in lower case.

    Raises `ImportError` where ftfy is needed and missing: without it the ids would
    differ from the published ones, unnoticed.
    """
    if not _PLAIN.fullmatch(text):
        try:
            import ftfy
        except ImportError as error:
            raise ImportError(
                "CLIP has ftfy repair every text that is not plain ASCII; got "
                f"{text!r} and no ftfy: install it with `pip install 'vtp_eqx[text]'`."
            ) from error
        text = ftfy.fix_text(text)
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


@dataclasses.dataclass(frozen=True)
class ClipTokenizer:
    """CLIP's encoding with some vocabulary; `clip_tokenizer` has the published one."""

    pieces: Tokenizer

    @property
    def vocabulary(self) -> int:
        """The number of tokens: 49408 for the published vocabulary."""
        return self.pieces.get_vocab_size(with_added_tokens=True)

    def encode(
        self, texts: Iterable[str], context: int = CONTEXT, *, truncate: bool = True
    ) -> Int32[np.ndarray, "n {context}"]:
        """Start, words, end and zeros for each text.

        A text that does not fit into `context` tokens loses its last ones, as
        published, and keeps the end token; with `truncate=False` it raises
        `ValueError`. Raises `ImportError` where a text needs ftfy and there is none.
        """
        texts = [clean(text) for text in texts]
        words = [[word for word, _ in _WORDS.pre_tokenize_str(text)] for text in texts]
        # Words are split before `pieces` sees them: a start or end token spelled out in
        # a text counts only where the published pattern finds one.
        encodings = self.pieces.encode_batch_fast(words, is_pretokenized=True)
        return encode_rows(
            [encoding.ids for encoding in encodings],
            texts,
            context,
            vocabulary=self.vocabulary,
            truncate=truncate,
        )

    def decode(self, ids: Int32[np.ndarray, "n context"]) -> list[str]:
        """The cleaned texts again, with a space between any two words."""
        words = [
            list(itertools.takewhile(lambda one: one < self.vocabulary - 1, row[1:]))
            for row in ids.tolist()
        ]
        texts = self.pieces.decode_batch(words, skip_special_tokens=False)
        return [text.replace(_WORD_END, " ").rstrip(" ") for text in texts]


def clip_tokenizer() -> ClipTokenizer:
    """The published tokenizer; its vocabulary file is looked for.

    `vtp_eqx.data.text.clip_vocabulary.find_vocabulary` says where. Raises
    `FileNotFoundError` where there is none and `ValueError` where it is another file.
    """
    lines = read_vocabulary()[1 : 1 + NUM_MERGES]
    return tokenizer_from_merges([(a, b) for a, b in map(str.split, lines)])


def tokenizer_from_merges(merges: Sequence[tuple[str, str]]) -> ClipTokenizer:
    """CLIP's encoding with another vocabulary: `merges` in the order of their rank.

    Tokens are written in GPT-2's alphabet of 256 letters, one a byte, and end in `</w>`
    where they end a word. Ids count the letters, the letters that end a word, the
    merges, start and end.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *alphabet,
        *(letter + _WORD_END for letter in alphabet),
        *(first + second for first, second in merges),
    ]
    ids = {token: index for index, token in enumerate(tokens)}
    pieces = Tokenizer(models.BPE(ids, list(merges), end_of_word_suffix=_WORD_END))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    pieces.decoder = decoders.ByteLevel()
    pieces.add_special_tokens([START, END])
    return ClipTokenizer(pieces)
