"""Editing: what is shown to the decoder, what is asked of it, and the command."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autolink import cli
from autolink.commands.edit import CHANGED, edit, parse_moves, unchanged
from autolink.errors import UserError
from autolink.model import AutoLink, AutoLinkConfig


def test_moves_are_read_and_add_up() -> None:
    movement = parse_moves(["3:+0.1,-0.05", "0:0,.5", "3:0.1,0"], 4)
    expected = torch.tensor([[0, 0.5], [0, 0], [0, 0], [0.2, -0.05]])
    torch.testing.assert_close(movement, expected)


@pytest.mark.parametrize("move", ["3", "a:1,2", "3:1", "3:1,2,3", "4:0,0", "-1:0,0", "3:nan,0", "3:inf,0"])
def test_what_is_no_move_is_refused(move: str) -> None:
    with pytest.raises(UserError, match=f"--move {move}: expected"):
        parse_moves([move], 4)


def test_patches_are_hidden_where_the_maps_differ_and_one_around() -> None:
    maps = torch.zeros(2, 1, 64, 64)
    maps[0, 0, 9, 22] = 0.5  # in the patch of row 2 and column 5; patches are 4 pixels wide
    maps[1, 0, 50:54, 50:54] = CHANGED / 2  # too little
    mask = unchanged(maps, CHANGED)
    hidden = torch.zeros(64, 64)
    hidden[4:16, 16:28] = 1
    assert torch.equal(mask, 1 - hidden[None])


@torch.no_grad()
def test_without_a_movement_it_is_the_reconstruction_of_the_whole_image(tiny: AutoLink) -> None:
    image = torch.rand(3, 64, 64) * 2 - 1
    edited = edit(tiny, image, torch.zeros(4, 2))
    assert edited.mask.all()
    expected = tiny(image[None], torch.ones(1, 1, 64, 64)).images[0].clamp(-1, 1)
    torch.testing.assert_close(edited.image, expected)


@torch.no_grad()
def test_the_decoder_sees_the_new_graph_and_the_patches_away_from_the_change(tiny: AutoLink) -> None:
    image, other = torch.rand(3, 64, 64) * 2 - 1, torch.rand(3, 64, 64) * 2 - 1
    movement = parse_moves(["2:0.5,-0.3"], 4)
    seen = {}
    tiny.decoder.register_forward_pre_hook(lambda _, given: seen.update(masked=given[0][0], edges=given[1][0]))
    for appearance in (None, other):
        edited = edit(tiny, image, movement, appearance)
        found = tiny.locate(image[None]).xy[0]
        torch.testing.assert_close(edited.moved, found + movement)
        torch.testing.assert_close(seen["edges"], tiny.edge_map(edited.moved[None], 64)[0])
        shown = image if appearance is None else other
        torch.testing.assert_close(seen["masked"], shown * edited.mask)
        assert 0 < edited.mask.mean() < 1
        own = tiny.edge_map(tiny.locate(shown[None]).xy, 64)[0]
        change = (seen["edges"] - own).abs() / tiny.edge_weights.max()
        assert (change * edited.mask).max() <= CHANGED < change.max()


def test_a_model_of_keypoints_without_edges_is_edited_too() -> None:
    model = AutoLink(
        AutoLinkConfig(keypoints=4, thickness=5e-3, image_size=64, width=0.125, drawing="keypoints")
    ).eval()
    image = torch.rand(3, 64, 64) * 2 - 1
    edited = edit(model, image, parse_moves(["2:0.5,-0.3"], 4))
    assert edited.image.isfinite().all() and 0 < edited.mask.mean() < 1
    assert not torch.equal(edited.image, edit(model, image, torch.zeros(4, 2)).image)


def test_the_command(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    picture = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)).save(picture)

    def run(*arguments: object) -> None:
        command = ["autolink", "edit", "--model", tiny_file, "--image", picture, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        cli.main()

    out = tmp_path / "new" / "edit.png"
    run("--move", "1:0.2,0", "2:-0.1,0.1", "--appearance", picture, "--output", out)
    assert str(out) in capsys.readouterr().out
    assert Image.open(out).size == (4 * 256 + 3 * 2, 256)

    linked = tmp_path / "linked.png"
    linked.symlink_to(out)
    before = out.read_bytes()
    for wrong in (
        ("--move", "9:0,0"),
        ("--move", "1:0,0", "--output", "x.jpg"),
        ("--move", "1:0,0", "--image", out.parent),
        ("--move", "1:0,0", "--image", out, "--output", out),
        ("--move", "1:0,0", "--appearance", out, "--output", out),
        ("--move", "1:0,0", "--image", out, "--output", linked),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(*wrong)
        assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert out.read_bytes() == before
