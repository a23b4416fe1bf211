"""Pictures: what is drawn is where it belongs, and nothing else is touched."""

import torch

from autolink.visualize import draw_graph, draw_points, edge_map_image, image_grid, overlay, save_png, to_uint8


def test_overlay_marks_points_and_edges_and_leaves_the_rest():
    image = torch.full((1, 3, 200, 200), 0.5)
    keypoints = torch.tensor([[[-0.5, -0.5], [0.5, -0.5], [0.0, 0.9]]])
    drawn = overlay(image, keypoints, torch.tensor([1.0, 1e-9, 1e-9]))[0].float()
    changed = (drawn - 127.5).abs().amax(0)
    assert changed[50, 50] > 50 and changed[50, 150] > 50 and changed[190, 100] > 50  # the three points
    assert changed[50, 100] > 50  # the strong edge
    assert changed[120:170].max() < 2  # the weak ones, and all that is far from points


def test_overlay_of_numbers_and_of_large_images():
    keypoints = torch.zeros(1, 2, 2)
    plain = overlay(torch.zeros(1, 3, 300, 700), keypoints, torch.ones(1))
    numbered = overlay(torch.zeros(1, 3, 300, 700), keypoints, torch.ones(1), numbered=True)
    assert plain.shape == numbered.shape == (1, 3, 300, 700) and not torch.equal(plain, numbered)


def test_grid_is_row_by_row():
    images = torch.stack([torch.full((3, 4, 4), value, dtype=torch.uint8) for value in (10, 20, 30)])
    grid = image_grid(images, columns=2, gap=1)
    assert grid.shape == (3, 9, 9)
    assert [grid[0, y, x].item() for y, x in [(0, 0), (0, 5), (5, 0), (5, 5), (4, 0)]] == [10, 20, 30, 255, 255]


def test_values_are_clamped_and_rounded(tmp_path):
    assert to_uint8(torch.tensor([-1.0, 0.5, 2.0])).tolist() == [0, 128, 255]
    from PIL import Image

    path = save_png(tmp_path / "new" / "x.png", torch.ones(3, 5, 7))
    assert Image.open(path).size == (7, 5)


def test_edge_maps_are_shown_in_the_whole_range_and_channels_by_their_maximum():
    assert edge_map_image(torch.rand(2, 1, 8, 8) * 0.01).amax() == 1
    channels = torch.zeros(1, 2, 4, 4)
    channels[0, 0, 0, 0], channels[0, 1, 3, 3] = 0.5, 0.25
    shown = edge_map_image(channels)
    assert shown.shape == (1, 3, 4, 4) and shown[0, 0, 0, 0] == 1 and shown[0, 0, 3, 3] == 0.5


def test_points_of_one_group_have_one_colour():
    keypoints = torch.tensor([[[-0.5, 0.0], [0.0, 0.0], [0.5, 0.0]]])
    drawn = draw_points(torch.zeros(1, 3, 200, 200), keypoints, groups=[0, 1, 0])[0]
    left, middle, right = (drawn[:, 100, x].tolist() for x in (50, 100, 150))
    assert left == right != middle
    own = draw_points(torch.zeros(1, 3, 200, 200), keypoints)[0]
    assert len({tuple(own[:, 100, x].tolist()) for x in (50, 100, 150)}) == 3


def test_brightness_is_how_much_of_the_image_an_edge_covers():
    keypoints = torch.tensor([[[-0.5, 0.0], [0.5, 0.0]]])
    half = draw_graph(torch.zeros(1, 3, 65, 65), keypoints, torch.tensor([0.5]), thickness=1e-2)[0, :, 32, 32]
    full = draw_graph(torch.zeros(1, 3, 65, 65), keypoints, torch.tensor([1.0]), thickness=1e-2)[0, :, 32, 32]
    assert full.max() > 0.9 and torch.allclose(half * 2, full, atol=1e-3)
