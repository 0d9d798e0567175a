"""Snippets of Python's standard library, and where each is from, for :mod:`examples.finetune`."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# Modules and packages with a hundred kilobytes or so of source, in every Python installation.
CLASSES = (
    *("argparse", "asyncio", "difflib", "email", "http", "importlib", "inspect", "logging"),
    *("multiprocessing", "subprocess", "tarfile", "typing", "unittest", "urllib", "xml", "zipfile"),
)
VOCABULARY = 2048
LENGTH = 64  # tokens in a snippet, the two at its ends included
HELD_OUT = 0.25  # of every file, its end
HELD_OUT_SNIPPETS = 64  # of a class, at most
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
PAD, CLS, SEP, MASK = range(4)


def read_class(name):
    """``(beginnings, ends)`` of the files of a module or package, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    module = root / f"{name}.py"
    paths = [module] if module.exists() else sorted((root / name).rglob("*.py"))
    beginnings, ends = [], []
    for path in paths:
        if any(part.startswith("test") for part in path.relative_to(root).parts):
            continue
        text = path.read_text(encoding="utf-8")
        cut = text.rfind("\n", 0, int(len(text) * (1 - HELD_OUT))) + 1
        beginnings.append(text[:cut])
        ends.append(text[cut:])
    if not beginnings:
        raise FileNotFoundError(f"the sources of {name} are not in {root}")
    return beginnings, ends


def train_tokenizer(texts):
    """Pairs of bytes, as frequent in `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def framed(tokens):
    """Rows of tokens to snippets: with the tokens that BERT expects at both ends."""
    size = (len(tokens), 1)
    return torch.cat([torch.full(size, CLS), tokens, torch.full(size, SEP)], 1)


@dataclass
class Data:
    """Tokens of the standard library.

    tokenizer: trained on what is trained on.
    beginnings: for each class the tokens that are trained on.
    held_out: snippets of the ends of all files, of which no snippet overlaps another.
    held_out_labels: the classes that they are from.
    """

    tokenizer: Tokenizer
    beginnings: list
    held_out: torch.Tensor
    held_out_labels: torch.Tensor

    def draw(self, labels, generator):
        """A snippet of each label, from a random place among those trained on."""
        rows = []
        for label in labels.tolist():
            tokens = self.beginnings[label]
            start = torch.randint(len(tokens) - LENGTH + 3, (), generator=generator)
            rows.append(tokens[start : start + LENGTH - 2])
        return framed(torch.stack(rows))

    def draw_anywhere(self, count, generator):
        """Snippets without labels: the more source a class has, the more of them are its own."""
        sizes = torch.tensor([float(len(tokens)) for tokens in self.beginnings])
        labels = torch.multinomial(sizes, count, replacement=True, generator=generator)
        return self.draw(labels, generator)


def load():
    """Reads, splits and tokenises the sources."""
    parts = [read_class(name) for name in CLASSES]
    tokenizer = train_tokenizer(text for beginnings, _ in parts for text in beginnings)

    def encode(texts):
        encodings = tokenizer.encode_batch(texts)
        return torch.tensor([token for encoding in encodings for token in encoding.ids])

    held_out, labels = [], []
    for label, (_, ends) in enumerate(parts):
        snippets = encode(ends).unfold(0, LENGTH - 2, LENGTH - 2)
        count = min(len(snippets), HELD_OUT_SNIPPETS)
        # Spread evenly, so that large packages are represented by all of their files.
        held_out.append(snippets[torch.linspace(0, len(snippets) - 1, count).long()])
        labels.append(torch.full((count,), label))
    beginnings = [encode(beginnings) for beginnings, _ in parts]
    return Data(tokenizer, beginnings, framed(torch.cat(held_out)), torch.cat(labels))
