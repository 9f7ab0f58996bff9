"""What loads what: `genmem --help` answers at once, and nobody waits for a library that they do not use."""

import subprocess
import sys

import pytest

HEAVY = {"numpy", "scipy", "sklearn", "torch", "faiss", "pyarrow", "PIL", "plotly", "pyro", "zuko", "diffusers"}
MODELS = {"pyro", "zuko", "diffusers"}
# (what is done, what must not be loaded after it), lightest first: one process asks all. What an earlier step loaded
# counts against the later ones too, so that nothing is forbidden after the first step that may load it.
STEPS = [
    ("import genmem_cli.main", HEAVY),
    ("import genmem_cli.main as m; m.run(['copycheck', '--help'])", HEAVY),
    ("import genmem", HEAVY),
    ("import genmem.search", HEAVY - {"numpy"}),
    (
        "import genmem.neighbors as n; assert all(callable(getattr(n, name)) for name in n.__all__)",
        HEAVY - {"numpy", "scipy"},
    ),
    ("import numpy as np; from genmem.search import nearest; nearest(np.eye(3), np.eye(3))", MODELS | {"torch"}),
    ("import genmem.report", MODELS | {"torch"}),
    ("import genmem.models.vae, genmem; genmem.VAE", MODELS),
    ("from genmem.models import make_model; make_model('vae'); make_model('kde')", MODELS),
    (
        "import numpy as np; from genmem.models.diffusion import DiffusionModel\n"
        "DiffusionModel(width=8, depth=1, epochs=1).fit(np.random.rand(20, 2)).sample(2)",
        MODELS,
    ),
]
# Zuko turns the checks of torch's distributions off where it is loaded; genmem turns them on again.
LAST = """
import torch, genmem.models.flow
assert 'zuko' in sys.modules
try: torch.distributions.Normal(0.0, -1.0)
except ValueError: print('validated')
"""
ASKED = """
import sys
for code, heavy in {steps!r}:
    exec(code, {{}})
    if found := sorted(heavy & set(sys.modules)):
        print(f'{{code!r}} loads {{found}}', file=sys.stderr)
{last}"""


@pytest.mark.slow
def test_nothing_heavy_is_loaded_before_it_is_needed():
    code = ASKED.format(steps=STEPS, last=LAST)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout.endswith("\nvalidated\n")
