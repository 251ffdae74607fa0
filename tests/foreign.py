"""Small fast tokenizers that cut the same text in really different ways, and a pair that reads by two of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from math import log
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from helmas_core.models.pair import Pair
from helmas_core.models.tokens import ChatTemplate, Codec, content_hash
from tests.tiny import unequal_pair

LINES = [
    "These are the seat numbers: Kolor 821, Tira 147, Fona 866. Who sits in 147?",
    "What is 12 + 30? 12 plus 30 is 42, so the final answer is 42.\nAnswer: 42\n",
    "Mark is a copy-editor. He edits an equal number of sentences each week for two publishers.",
    "h=k*2; mod 10: k=3; h=k*2; the café is closed, naïve people wait outside: 你好 世界 👋🏽.",
]
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
OTHER_CHAT = (
    "<s>You are a teacher and you explain.\n{% for m in messages %}[{{ m.role }}] {{ m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def _fast(tokenizer: Tokenizer, trainer: Any, **named: Any) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator(LINES * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


@lru_cache
def byte_level() -> PreTrainedTokenizerFast:
    """Bytes under merges, as in Qwen and SmolLM: an emoji is several tokens with one span."""
    made, specials = Tokenizer(models.BPE()), ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=specials, show_progress=False
    )
    return _fast(made, trainer, eos_token="<|end|>", pad_token="<|end|>")


@lru_cache
def unigram() -> PreTrainedTokenizerFast:
    """Pieces of words with the space before them, after NFKC, as in SentencePiece; what is unknown is one token.

    Counted and not trained: the trainer's pieces are others in every process."""
    made = Tokenizer(models.Unigram(_pieces(), unk_id=0, byte_fallback=False))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    made.add_special_tokens(list(dict.fromkeys(named.values())))
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)


def _pieces() -> list[tuple[str, float]]:
    """All characters of LINES and their most common runs in words, with their log probabilities."""
    words = "".join(f" {line}" for line in LINES).replace(" ", " ▁").split()
    runs = Counter(w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, min(i + 6, len(w)) + 1))
    common = sorted(runs.items(), key=lambda found: (len(found[0]) > 1, -found[1], found[0]))[:297]
    total = sum(runs.values())
    return [(special, 0.0) for special in ("<unk>", "<s>", "</s>")] + [(r, log(n / total)) for r, n in common]


@lru_cache
def word_piece() -> PreTrainedTokenizerFast:
    """Words in lower case without accents, spaces and control characters, as in BERT: whole characters get no token."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = [
        word for line in LINES for word, _ in made.pre_tokenizer.pre_tokenize_str(made.normalizer.normalize_str(line))
    ]
    letters = sorted({letter for word in words for letter in word})
    pieces = dict.fromkeys(["[UNK]", "[PAD]", *letters, *(f"##{letter}" for letter in letters), *words])
    made.model = models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", eos_token="[PAD]")


TOKENIZERS = {"byte-level": byte_level, "unigram": unigram, "word-piece": word_piece}


def foreign_pair(chat: bool = True, swapped: bool = False) -> Pair:
    """Random unequal models: the student reads bytes and the teacher SentencePiece, or the other way round."""
    codecs = [_codec(byte_level(), CHAT if chat else None), _codec(unigram(), OTHER_CHAT if chat else None)]
    student, teacher = codecs[::-1] if swapped else codecs
    own = {"tokenizer": student.tokenizer, "template": student.template, "tokenizer_hash": student.hash}
    return replace(unequal_pair(), **own, codec=teacher)


def _codec(tokenizer: PreTrainedTokenizerFast, chat: str | None) -> Codec:
    if chat is None:
        return Codec(tokenizer, None, content_hash(tokenizer))
    templated = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map)
    templated.chat_template = chat
    return Codec(templated, ChatTemplate(templated), content_hash(templated))
