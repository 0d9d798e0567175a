"""Pretraining and fine-tuning of `examples.finetune`."""

from dataclasses import dataclass

import torch
from transformers import BertConfig, BertForSequenceClassification

import fused_dropout as fd
from examples import finetune_data as data
from examples.lm_training import Training

LAYERS, WIDTH, HEADS = 2, 128, 4
BATCH = 32
LABELLED = 128  # snippets of each class for fine-tuning, so few that the network can overfit
INITIAL = 0.08  # standard deviation of the weights; 0.02, for BERT's width, learns slowly here
MEASURED = 5  # number of measurements of the accuracy in a run


def classifier(folder, p):
    """Returns the pretrained network with a new head."""
    return BertForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(data.CLASSES),
        id2label=dict(enumerate(data.CLASSES)),
        label2id={name: label for label, name in enumerate(data.CLASSES)},
        hidden_dropout_prob=p,
        attention_probs_dropout_prob=p,
    )


@dataclass
class Classification(Training):
    """Training of a classifier on (snippets, labels)."""

    longest_gradient = 1.0

    def loss(self, batch):
        snippets, labels = batch
        return self.model(input_ids=snippets, labels=labels).loss


@dataclass
class Pretraining(Classification):
    """Pretraining on other modules than the fine-tuning, without dropout."""

    learning_rate = 1.5e-3

    def make_model(self):
        config = BertConfig(
            vocab_size=data.VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=data.LENGTH,
            pad_token_id=data.PAD,
            initializer_range=INITIAL,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=len(data.PRETRAINING_CLASSES),
        )
        model = BertForSequenceClassification(config).train()
        fd.fuse(model)
        return model


@dataclass
class FineTuning(Classification):
    """Fine-tuning on few labelled snippets. `seed` selects them, their order and the head."""

    learning_rate = 1e-3

    folder: str
    p: float
    fused: bool = True

    def make_model(self):
        model = classifier(self.folder, self.p).train()
        self.report = fd.fuse(model) if self.fused else None
        return model

    def validate(self, source):
        """Measures the share of the held-out snippets that are recognised."""
        scores = predict(self.model, source.held_out)
        accuracy = (scores.argmax(1) == source.held_out_labels).float().mean().item()
        self.validation.append((len(self.training), accuracy))


@torch.no_grad()
def predict(model, snippets):
    """Returns the scores in evaluation mode. The model is in training mode afterwards."""
    model.eval()
    scores = torch.cat([model(input_ids=part).logits for part in snippets.split(256)])
    model.train()
    return scores


def pretrain(source, steps, folder, progress):
    """Pretrains and saves all but the head. Returns the losses, one per step."""
    generator = torch.Generator().manual_seed(0)
    run = Pretraining(steps)
    for _ in range(steps):
        labels = torch.randint(len(source.pretraining), (BATCH,), generator=generator)
        run.step((data.draw(source.pretraining, labels, generator), labels))
        progress()
    fd.unfuse(run.model).base_model.save_pretrained(folder)
    return run.training


def labelled(source, seed):
    """Yields batches of the snippets for fine-tuning, without end."""
    generator = torch.Generator().manual_seed(1000 + seed)
    labels = torch.arange(len(data.CLASSES)).repeat(LABELLED)
    snippets = data.draw(source.beginnings, labels, generator)
    while True:
        for rows in torch.randperm(len(labels), generator=generator).split(BATCH):
            yield snippets[rows], labels[rows]


def fine_tune(source, folder, rates, seeds, steps, progress):
    """Returns a run for each seed and rate, in this order. Runs of a seed see the same batches."""
    runs = []
    measured = {steps} if steps < 50 else {steps * i // MEASURED for i in range(1, MEASURED + 1)}
    for seed in range(seeds):
        for p in rates:
            batches = labelled(source, seed)
            run = FineTuning(steps, folder, p, seed=seed)
            for step in range(1, steps + 1):
                run.step(next(batches))
                if step in measured:
                    run.validate(source)
                progress()
            runs.append(run)
    return runs


def time_steps(source, folder, p, samples):
    """Returns timed runs, unfused and fused, without and with dropout, whose steps take turns."""
    runs = [
        FineTuning(samples + 2, folder, rate, fused) for rate in (0.0, p) for fused in (False, True)
    ]
    batches = labelled(source, 0)
    for _ in range(samples + 2):
        batch = next(batches)
        for run in runs:
            run.step(batch)
    for run in runs:
        del run.times[:2]
    return runs
