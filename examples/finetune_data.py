"""The data of `examples.finetune`: snippets of Python's standard library, labelled by module."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

# Modules and packages of every Python installation with about a hundred kilobytes of source.
CLASSES = (
    *("argparse", "asyncio", "difflib", "email", "http", "importlib", "inspect", "logging"),
    *("multiprocessing", "subprocess", "tarfile", "typing", "unittest", "urllib", "xml", "zipfile"),
)
# Classes for pretraining, different from those above.
PRETRAINING_CLASSES = (
    *("_pydecimal", "ast", "collections", "concurrent", "configparser", "ctypes", "dataclasses"),
    *("doctest", "enum", "ftplib", "imaplib", "ipaddress", "json", "locale", "mailbox", "optparse"),
    *("pathlib", "pdb", "pickle", "pickletools", "platform", "pydoc", "shutil", "smtplib"),
    *("socket", "ssl", "statistics", "tempfile", "threading", "traceback", "wsgiref"),
)
VOCABULARY = 1024
LENGTH = 64  # tokens in a snippet, including the two at its ends
HELD_OUT = 0.25  # share of every file, at its end
HELD_OUT_SNIPPETS = 48  # maximum for each class
SPECIAL = ("[PAD]", "[CLS]", "[SEP]")
PAD, CLS, SEP = range(3)


def read_class(name):
    """Returns `(beginnings, ends)` of the files of a module or package, without its tests."""
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
    """Trains a byte-pair encoding on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def framed(tokens):
    """Makes snippets from rows of tokens: adds the tokens that BERT expects at both ends."""
    size = (len(tokens), 1)
    return torch.cat([torch.full(size, CLS), tokens, torch.full(size, SEP)], 1)


def draw(texts, labels, generator):
    """Returns a snippet for each label, from a random position in the tokens `texts[label]`."""
    rows = []
    for label in labels.tolist():
        tokens = texts[label]
        start = torch.randint(len(tokens) - LENGTH + 3, (), generator=generator)
        rows.append(tokens[start : start + LENGTH - 2])
    return framed(torch.stack(rows))


@dataclass
class Data:
    """Tokens of the standard library.

    pretraining: a tensor for each class of pretraining.
    beginnings: a tensor for each class, for fine-tuning.
    held_out: snippets from the ends of all files, which do not overlap.
    held_out_labels: their classes.
    """

    pretraining: list
    beginnings: list
    held_out: torch.Tensor
    held_out_labels: torch.Tensor


def load():
    """Reads, splits and tokenises the sources."""
    parts = [read_class(name) for name in CLASSES]
    others = [
        [*beginnings, *ends]
        for beginnings, ends in (read_class(name) for name in PRETRAINING_CLASSES)
    ]
    beginnings = [texts for texts, _ in parts]
    tokenizer = train_tokenizer(text for texts in others + beginnings for text in texts)

    def encode(texts):
        encodings = tokenizer.encode_batch(texts)
        return torch.tensor([token for encoding in encodings for token in encoding.ids])

    held_out, labels = [], []
    for label, (_, ends) in enumerate(parts):
        snippets = encode(ends).unfold(0, LENGTH - 2, LENGTH - 2)
        count = min(len(snippets), HELD_OUT_SNIPPETS)
        # Evenly spaced, so that all files of large packages are represented.
        held_out.append(snippets[torch.linspace(0, len(snippets) - 1, count).long()])
        labels.append(torch.full((count,), label))
    return Data(
        [encode(texts) for texts in others],
        [encode(texts) for texts in beginnings],
        framed(torch.cat(held_out)),
        torch.cat(labels),
    )
