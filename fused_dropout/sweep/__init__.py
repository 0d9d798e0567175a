"""Does dropout help, with which p, by how much? ``python -m fused_dropout.sweep --help``.

Needs scikit-learn, matplotlib and tqdm, which the rest of the package does not.
"""
