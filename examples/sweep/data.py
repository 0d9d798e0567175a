"""Data sets of scikit-learn, split into training, validation and test rows."""

from dataclasses import dataclass

import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

TEST_SPLIT = 2**31 - 1  # the seed that selects the test rows


@dataclass(frozen=True)
class Data:
    """A data set and how to train on it.

    There are so few training rows that networks overfit. With the learning rate, training is stable
    up to p = 0.7.
    """

    title: str
    load: object
    scaler: type
    train_rows: int
    test_rows: int
    epochs: int
    learning_rate: float

    def split(self, seed):
        """Returns `{"train": (x, y), "val": (x, y), "test": (x, y)}`, float32 and int64.

        The test rows are the same for every seed, so a choice by validation rows of any seeds does
        not depend on them. The other rows are split by `seed`. The scale of the inputs is from the
        training rows.
        """
        x, y = self.load(return_X_y=True)
        x, x_test, y, y_test = train_test_split(
            x, y, test_size=self.test_rows, stratify=y, random_state=TEST_SPLIT
        )
        x_train, x_val, y_train, y_val = train_test_split(
            x, y, train_size=self.train_rows, stratify=y, random_state=seed
        )
        scaler = self.scaler().fit(x_train)
        parts = {"train": (x_train, y_train), "val": (x_val, y_val), "test": (x_test, y_test)}
        return {
            name: (torch.from_numpy(scaler.transform(x)).float(), torch.from_numpy(y).long())
            for name, (x, y) in parts.items()
        }


DATA = {
    "digits": Data(
        title="handwritten digits, 8 x 8 pixels",
        load=datasets.load_digits,
        scaler=MaxAbsScaler,
        train_rows=300,
        test_rows=597,
        epochs=40,
        learning_rate=0.05,
    ),
    "breast_cancer": Data(
        title="breast cancer, 30 features",
        load=datasets.load_breast_cancer,
        scaler=StandardScaler,
        train_rows=100,
        test_rows=169,
        epochs=80,
        learning_rate=0.02,
    ),
}
