"""The detector contract works in a repository of a user, and detects the faults that it tests for."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

USER_TESTS = """
from detrex_lite.config import get_config
from detrex_lite.projects.detr.modeling import DETR
from detrex_lite.testing import SMALL, DetectorContract, changed


class TestMine(DetectorContract):
    target = DETR

    def config(self, **changes):
        cfg = get_config("projects/detr/configs/models/detr_r50.py").model
        return changed(cfg, {**SMALL, "_target_": self.target, **changes})


class ForgetsPadding(DETR):
    def decode(self, images, *, training=False):
        images.mask = None
        return super().decode(images, training=training)


class WaitsForDevice(DETR):
    def decode(self, images, *, training=False):
        float(images.tensor.mean())
        return super().decode(images, training=training)


class LearnsNoClasses(DETR):
    def decode(self, images, *, training=False):
        queries, layers, losses = super().decode(images, training=training)
        return queries, [layer._replace(logits=layer.logits.detach()) for layer in layers], losses


class TestForgetsPadding(TestMine):
    target = ForgetsPadding


class TestWaitsForDevice(TestMine):
    target = WaitsForDevice


class TestLearnsNoClasses(TestMine):
    target = LearnsNoClasses
"""
FAULTS = {
    "TestForgetsPadding::test_an_image_gives_the_same_detections_alone_and_in_a_padded_batch",
    "TestWaitsForDevice::test_the_forward_pass_of_training_never_waits_for_a_gpu",
    "TestLearnsNoClasses::test_losses_have_the_names_of_all_sets_and_every_parameter_learns",
}


def test_contract_detects_faults_in_a_user_repository_without_a_conftest(tmp_path):
    (tmp_path / "test_mine.py").write_text(USER_TESTS)
    selected = [f"test_mine.py::{name}" for name in ("TestMine", *sorted(FAULTS))]
    completed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *selected],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    failed = {line.split()[1] for line in completed.stdout.splitlines() if line.startswith("FAILED")}
    assert failed == {f"test_mine.py::{name}" for name in FAULTS}, completed.stdout
    assert "8 passed" in completed.stdout
