"""The skeleton of the synthetic figures: joints, links, proportions, and where a pose puts the joints.

In space x points to the right of the image, y down and z towards the viewer; lengths are in body heights and
the pelvis is at the origin. The figure faces the viewer, so its right side is on the left of the image.

J joints.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

JOINT_NAMES = (
    "head", "neck",
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
)  # fmt: skip
SKELETON_LINKS = (
    (0, 1),
    (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7),
    (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
)  # fmt: skip
HEAD, NECK = 0, 1
ARMS = ((2, 3, 4), (5, 6, 7))  # right, left
LEGS = ((8, 9, 10), (11, 12, 13))
SIDES = (-1, 1)  # right, left: the sign of their x

# Degrees of freedom and their ranges in degrees: the body, then each arm, then each leg.
_BODY = {
    "turn": (-35, 35),
    "lean": (-14, 14),
    "bow": (-6, 20),
    "twist": (-18, 18),
    "tilt": (-18, 18),
    "look": (-25, 25),
}
_ARM = {"lift": (6, 115), "swing": (-25, 45), "roll": (-50, 40), "bend": (4, 100)}
_LEG = {"spread": (2, 30), "swing": (-18, 50), "roll": (-12, 20), "bend": (2, 70)}
_LOW, _HIGH = np.array([*_BODY.values(), *_ARM.values(), *_ARM.values(), *_LEG.values(), *_LEG.values()], float).T
POSE_SIZE = len(_LOW)


class Body(NamedTuple):
    """Lengths in body heights: of the bones, half the width of shoulders and hips, and the head's radius."""

    neck: float
    torso: float
    shoulders: float
    hips: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    head: float

    @property
    def stature(self) -> float:
        """From the ankles to the top of the head of an upright body."""
        return self.shin + self.thigh + self.torso + self.neck + 1.15 * self.head


class Posed(NamedTuple):
    """A body in a pose.

    Attributes:
        joints: (J, 3) positions, in the order of `JOINT_NAMES`.
        toes: (2, 3) tips of the right and left foot.
        gaze: where the face looks, in radians from the viewer; positive to the right of the image.
    """

    joints: np.ndarray
    toes: np.ndarray
    gaze: float


def random_body(rng: np.random.Generator) -> Body:
    """Proportions that vary by about a tenth around an adult's."""

    def about(value: float, spread: float) -> float:
        return value * rng.uniform(1 - spread, 1 + spread)

    return Body(
        neck=about(0.15, 0.06),
        torso=about(0.29, 0.1),
        shoulders=about(0.115, 0.15),
        hips=about(0.062, 0.15),
        upper_arm=about(0.17, 0.1),
        forearm=about(0.155, 0.1),
        thigh=about(0.235, 0.1),
        shin=about(0.225, 0.1),
        head=about(0.08, 0.1),
    )


def forward_kinematics(body: Body, pose: np.ndarray) -> Posed:
    """Where a pose puts the joints.

    Args:
        body: the proportions.
        pose: (POSE_SIZE,) in [0, 1], each degree of freedom from the low to the high end of its range.
    """
    angles = np.radians(_LOW + pose * (_HIGH - _LOW))
    turn, lean, bow, twist, tilt, look = angles[:6]
    arms, legs = angles[6:14].reshape(2, 4), angles[14:].reshape(2, 4)
    joints, toes = np.zeros((len(JOINT_NAMES), 3)), np.zeros((2, 3))
    pelvis = _about_y(turn)
    trunk = pelvis @ _about_z(lean) @ _about_x(-bow) @ _about_y(twist)
    joints[NECK] = trunk @ (0, -body.torso, 0)
    joints[HEAD] = joints[NECK] + trunk @ _about_z(tilt) @ (0, -body.neck, 0)
    for side, (shoulder, elbow, wrist), (lift, swing, roll, bend) in zip(SIDES, ARMS, arms, strict=True):
        upper = trunk @ _about_z(-side * lift) @ _about_x(swing) @ _about_y(side * roll)
        lower = upper @ _about_x(bend)
        joints[shoulder] = joints[NECK] + trunk @ (side * body.shoulders, 0.035, 0)
        joints[elbow] = joints[shoulder] + upper[:, 1] * body.upper_arm
        joints[wrist] = joints[elbow] + lower[:, 1] * body.forearm
    for side, (hip, knee, ankle), (spread, swing, roll, bend) in zip(SIDES, LEGS, legs, strict=True):
        upper = pelvis @ _about_z(-side * spread) @ _about_x(swing) @ _about_y(side * roll)
        lower = upper @ _about_x(-bend)
        joints[hip] = pelvis @ (side * body.hips, 0, 0)
        joints[knee] = joints[hip] + upper[:, 1] * body.thigh
        joints[ankle] = joints[knee] + lower[:, 1] * body.shin
        toes[max(side, 0)] = joints[ankle] + pelvis @ (side * 0.045, 0.02, 0.07)
    return Posed(joints, toes, turn + twist + look)


def _about_x(angle: float) -> np.ndarray:
    """Turns down (+y) towards the viewer (+z)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _about_y(angle: float) -> np.ndarray:
    """Turns the viewer's direction (+z) to the right (+x)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _about_z(angle: float) -> np.ndarray:
    """Turns right (+x) down (+y), so down (+y) to the left."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
