"""Shared data, and on the path the folders of tests and of benchmarks: `import oracles` works from any test."""

import os
import sys
import tempfile
from pathlib import Path

# Workers side by side share the cores: with several threads each they would wait for one another. Read at the import
# of numpy, torch and faiss, and handed on to processes that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# What genmem remembers of its user is not that of whoever runs the tests.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="genmem-state-")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, however slow the machine is, and no folder of earlier examples.
settings.register_profile(
    "same", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "bench"))


@pytest.fixture
def blobs():
    """(120, 6) float32: three clusters, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    return (rng.normal(size=(120, 6)) + 3 * labels[:, None]).astype(np.float32), labels
