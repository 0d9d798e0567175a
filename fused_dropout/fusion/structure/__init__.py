"""Fuses code of any origin: known shapes of expressions in the ``forward`` of a module.

In ::

    def forward(self, x):
        h = self.fc1(x)
        h = F.gelu(h)
        h = self.drop(h)
        return x + self.drop(self.fc2(h))

the statements are joined to the expressions ``self.drop(F.gelu(self.fc1(x)))`` and
``x + self.drop(self.fc2(...))``, and these become calls of kernels. The rest of the code stays as
it is and runs in the same order. All of this happens once, when a class is fused.

Files:
    source.py: reads the syntax tree of a method, and makes a method of a syntax tree.
    roles.py: what the attributes of a module are: dropout, activation, norm and so on.
    joining.py: joins statements.
    shapes.py: takes expressions apart.
    rewriting.py: replaces expressions by calls of the functions in kernel_calls.py.
    norms.py: recognises norms by what their code computes.
    plan.py: all of it for one module.
    pattern.py: the pattern.
"""
