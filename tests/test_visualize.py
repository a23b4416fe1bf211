"""Pictures: what is drawn is where it belongs, and nothing else is touched."""

import torch

from autolink.visualize import edge_map_image, edge_matrix_image, image_grid, overlay, save_png, to_uint8


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


def test_edge_pictures_use_the_whole_range():
    assert edge_map_image(torch.rand(2, 1, 8, 8) * 0.01).amax() == 1
    matrix = torch.tensor([[0.0, 0.2], [0.2, 0.0]])
    shown = edge_matrix_image(matrix, cell=3)
    assert shown.shape == (3, 6, 6) and shown[0, 0, 5] == 1 and shown[0, 0, 0] == 0
