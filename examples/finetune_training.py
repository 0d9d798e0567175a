"""Pretraining and fine-tuning of :mod:`examples.finetune`."""

from dataclasses import dataclass

import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

import fused_dropout as fd
from examples import finetune_data as data
from examples.lm_training import Training

LAYERS, WIDTH, HEADS = 3, 128, 4
BATCH = 32
LABELLED = 48  # snippets of each class to fine-tune on. Few, so that the network can overfit
MASKED = 0.15  # of the tokens, in pretraining


def classifier(folder, p):
    """The pretrained network with a new head."""
    return BertForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(data.CLASSES),
        id2label=dict(enumerate(data.CLASSES)),
        label2id={name: label for label, name in enumerate(data.CLASSES)},
        hidden_dropout_prob=p,
        attention_probs_dropout_prob=p,
    )


@dataclass
class Pretraining(Training):
    """A masked language model on snippets without labels."""

    learning_rate = 2e-3
    longest_gradient = 1.0

    def make_model(self):
        config = BertConfig(
            vocab_size=data.VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=data.LENGTH,
            pad_token_id=data.PAD,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = BertForMaskedLM(config).train()
        fd.fuse(model)
        return model

    def loss(self, batch):
        snippets, chosen = batch
        masked = snippets.masked_fill(chosen, data.MASK)
        labels = snippets.masked_fill(~chosen, -100)  # which the loss leaves out
        return self.model(input_ids=masked, labels=labels).loss


@dataclass
class FineTuning(Training):
    """A classifier on few snippets with labels; ``seed`` chooses them, their order and the head."""

    learning_rate = 5e-4
    longest_gradient = 1.0

    folder: str
    p: float
    fused: bool = True

    def make_model(self):
        model = classifier(self.folder, self.p).train()
        self.report = fd.fuse(model) if self.fused else None
        return model

    def loss(self, batch):
        snippets, labels = batch
        return self.model(input_ids=snippets, labels=labels).loss

    def validate(self, source):
        """Adds the share of the held-out snippets that are recognised."""
        scores = predict(self.model, source.held_out)
        accuracy = (scores.argmax(1) == source.held_out_labels).float().mean().item()
        self.validation.append((len(self.training), accuracy))


@torch.no_grad()
def predict(model, snippets):
    """Scores in evaluation mode; the model is in training mode afterwards."""
    model.eval()
    scores = torch.cat([model(input_ids=part).logits for part in snippets.split(256)])
    model.train()
    return scores


def pretrain(source, steps, folder, progress):
    """Trains a masked language model and saves it; returns its losses, one a step."""
    generator = torch.Generator().manual_seed(0)
    run = Pretraining(steps)
    for _ in range(steps):
        snippets = source.draw_anywhere(BATCH, generator)
        chosen = torch.rand(snippets.shape, generator=generator) < MASKED
        run.step((snippets, chosen & (snippets >= len(data.SPECIAL))))
        progress()
    fd.unfuse(run.model).save_pretrained(folder)
    return run.training


def labelled(source, seed):
    """The snippets to fine-tune on, and an endless stream of batches of them."""
    generator = torch.Generator().manual_seed(1000 + seed)
    labels = torch.arange(len(data.CLASSES)).repeat(LABELLED)
    snippets = source.draw(labels, generator)

    def batches():
        while True:
            for rows in torch.randperm(len(labels), generator=generator).split(BATCH):
                yield snippets[rows], labels[rows]

    return snippets, labels, batches()


def fine_tune(source, folder, rates, seeds, steps, progress):
    """A run for each seed and rate, in this order; those of a seed see the same batches."""
    runs = []
    for seed in range(seeds):
        for p in rates:
            *_, batches = labelled(source, seed)
            run = FineTuning(steps, folder, p, seed=seed)
            for step in range(steps):
                run.step(next(batches))
                if (step + 1) % max(steps // 10, 1) == 0 or step + 1 == steps:
                    run.validate(source)
                progress()
            runs.append(run)
    return runs


def time_steps(source, folder, p, samples):
    """Runs whose times are of equal steps, unfused and fused, without and with dropout, in turn."""
    runs = [
        FineTuning(samples + 2, folder, rate, fused) for rate in (0.0, p) for fused in (False, True)
    ]
    *_, batches = labelled(source, 0)
    for _ in range(samples + 2):
        batch = next(batches)
        for run in runs:
            run.step(batch)
    for run in runs:
        del run.times[:2]
    return runs
