"""Figures: what is plotted is what was measured, and the command writes what it promises."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from autolink.cli import main
from autolink.commands.figures import edge_brightness, topology_pairs, triples
from autolink.plots import edge_matrix_figure, samples_figure, sweep_figure, training_figure


def test_edges_are_as_bright_as_appendix_e_says():
    weights = torch.tensor([0.2, 0.05, 0.0002, 0.00005])
    assert edge_brightness(weights).tolist() == pytest.approx([1, 0.25, 0.001, 0.00025])
    lifted = edge_brightness(weights, lift=True)  # 0.01 on top of what is above 0.0001
    assert lifted.tolist() == pytest.approx([1, 0.06 / 0.21, 0.0102 / 0.21, 0.00005 / 0.21])
    assert edge_brightness(weights, power=0.5)[1].item() == pytest.approx(0.5)
    assert edge_brightness(torch.zeros(3)).tolist() == [0, 0, 0]


def test_triples_stand_seven_a_row_and_begin_with_the_image():
    images = torch.rand(9, 3, 16, 16)
    grid = triples(images, torch.rand(9, 3, 2) - 0.5, torch.tensor([1.0, 0.5, 0.0]))
    assert grid.shape == (3, 2 * 16 + 4, 7 * 48 + 6 * 4)
    last = grid[:, 20:, 52:68].float() / 255  # second row, second triple: image 8
    assert torch.allclose(last, images[8], atol=1 / 255)
    assert not torch.allclose(grid[:, 20:, 68:84].float() / 255, images[8], atol=0.1)


def test_a_sweep_over_numbers_is_drawn_as_lines_with_spread():
    def run(row, column, error):
        return {"row_axis": "σ²", "row": row, "column_axis": "K", "column": column, "error": error}

    results = [run("0.0001", "4", 6.0), run("0.0001", "4", 8.0), run("0.01", "4", 5.0), run("0.01", "8", None)]
    (axes,) = sweep_figure(results, {"error": "error percent"}).axes
    lines = [container.lines[0] for container in axes.containers]
    assert lines[0].get_xdata().tolist() == [0.0001, 0.01] and lines[0].get_ydata().tolist() == [7.0, 5.0]
    assert len(lines) == 1  # nothing was measured with K = 8
    (bars,) = axes.containers[0].lines[2]
    low, high = bars.get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 2**0.5)  # ± the standard deviation of 6 and 8
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "σ²"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["K = 4"]


def test_a_sweep_over_names_is_drawn_as_bars_from_top_to_bottom():
    results = [
        {"row_axis": "edge map", "row": row, "column_axis": "", "column": "", "error": error, "links": 1.0}
        for row, error in [("original", 5.0), ("fixed α", 6.0)]
    ]
    axes = sweep_figure(results, {"error": "error", "links": "links"}).axes
    assert [bar.get_width() for bar in axes[0].patches] == [5.0, 6.0]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["original", "fixed α"]
    assert axes[0].yaxis_inverted() and axes[0].get_legend() is None


def test_training_curves_show_the_logs(tmp_path):
    lines = [{"step": 1, "loss": 0.5, "edge_weight_max": 0.1}, {"step": 2, "held_out_loss": 0.4}]
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss, held_out, _ = training_figure([tmp_path / "a", tmp_path / "b"]).axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 0.5]] and held_out.lines[0].get_xydata().tolist() == [[2, 0.4]]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["a", "b"]


def test_the_matrix_shows_all_pairs_and_no_diagonal():
    matrix = torch.tensor([[0.0, 0.2, 1e-9], [0.2, 0.0, 0.05], [1e-9, 0.05, 0.0]])
    axes = edge_matrix_figure(matrix).axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert np.isnan(np.diag(shown)).all()
    assert shown[0, 1] == shown[1, 0] == pytest.approx(0.2) and shown[0, 2] == pytest.approx(0.2 * 1e-4)
    assert edge_matrix_figure(torch.zeros(3, 3)).axes  # a graph without edges is a figure too


def test_strips_are_named():
    figure = samples_figure({"one": torch.zeros(3, 8, 40, dtype=torch.uint8), "two": torch.ones(3, 8, 40)})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["autolink", "figures", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stopped:
            status = stopped.code
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, written=out.splitlines(), error=err)

    return run


def test_the_command_writes_all_figures(tiny_file, tmp_path, command):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(20):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            images / f"{i:02}.png"
        )
    output = tmp_path / "figures"
    done = command(
        "--model", tiny_file, "--data", images, "--output", output, "--images", 2, "--size", 32, "--numbered"
    )
    assert done.status == 0
    assert done.written == [str(output / name) for name in ("edges.png", "samples.png", "clusters.png", "graph.json")]
    assert Image.open(output / "samples.png").size == (2 * 96 + 4, 32)
    graph = json.loads((output / "graph.json").read_text())
    assert len(graph["tree"]) == 3 and len(graph["clusters"]) == 4 and graph["moving_cluster"] in (0, 1)
    assert graph["edges"] == sorted(graph["edges"], key=lambda edge: -edge[2])


def test_the_learned_graph_stands_beside_the_true_skeleton(tiny_file, tmp_path, command):
    done = command("--model", tiny_file, "--data", "synthetic", "--output", tmp_path, "--images", 4, "--size", 32)
    assert done.written[3] == str(tmp_path / "topology.png")
    assert Image.open(done.written[3]).size == (3 * 64 + 2 * 4, 2 * 32 + 4)


def test_pairs_show_the_links_and_as_many_of_the_heaviest_edges():
    images = torch.zeros(1, 3, 256, 256)
    corners = torch.tensor([[[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]])
    matrix = torch.zeros(4, 4)
    matrix[0, 1] = matrix[1, 0] = 0.2
    matrix[2, 3] = matrix[3, 2] = 0.1
    pair = topology_pairs(images, corners, [(2, 1)], corners, matrix).float()
    truth, learned = pair[..., :256], pair[..., 256:]

    def at(picture, x, y):
        return picture[:, int((y + 1) * 128), int((x + 1) * 128)].max().item() > 100

    assert at(truth, 0.5, 0) and not at(truth, 0, -0.5)  # the link, and no other
    assert at(learned, 0, -0.5) and not at(learned, 0, 0.5) and not at(learned, 0.5, 0)  # one edge, the heaviest


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "nothing to draw"),
        (("--runs", "nowhere"), "no log.jsonl"),
        (("--model", "MODEL", "--clusters", "9"), "has 4 keypoints"),
        (("--model", "MODEL", "--data", "synthetic", "--images", "0"), "--images 0: give a whole number from 1 on"),
    ],
)
def test_mistakes_give_one_line(arguments, message, tiny_file, tmp_path, command):
    arguments = [str(tiny_file) if argument == "MODEL" else argument for argument in arguments]
    done = command(*arguments, "--output", tmp_path)
    assert done.status == 2 and message in done.error and "Traceback" not in done.error
