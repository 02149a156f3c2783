"""The demo's picture: both students against steps and against seconds, with the teacher's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logitstore.demo.comparison import Curve
from logitstore.errors import InvalidInput

COLOURS = {"cross-entropy": "#c4501b", "sparse KD": "#1f5fa8"}
MARKERS = {"cross-entropy": "s", "sparse KD": "o"}


def plot_comparison(path: Path, curves: Mapping[str, Curve], *, teacher_loss: float, subtitle: str) -> Path:
    """Draw held-out loss and KL to the teacher against steps and seconds, as a PNG.

    Args:
        path: of the PNG; replaced where it exists.
        curves: of each student, by the name of its loss.
        teacher_loss: the teacher's own held-out loss in nats.
        subtitle: what was trained on what.

    Returns:
        `path`.
    Raises:
        InvalidInput: matplotlib is not installed.
    """
    figure = _new_figure()
    panels = figure.subplots(2, 2, sharey="row", sharex="col")
    rows = (("loss", "next-token loss (nats)"), ("kl", "KL(teacher || student) (nats)"))
    columns = (("steps", "training steps"), ("seconds", "training seconds (without evaluation)"))
    for row, (quantity, quantity_name) in enumerate(rows):
        for column, (progress, progress_name) in enumerate(columns):
            panel = panels[row][column]
            for name, curve in curves.items():
                _draw(panel, name, curve, progress, quantity)
            if quantity == "loss":
                panel.axhline(
                    teacher_loss, color="#444444", linestyle="--", label=f"teacher itself: {teacher_loss:.2f}"
                )
            else:
                panel.set_xlabel(progress_name)
            if column == 0:
                panel.set_ylabel(f"held-out {quantity_name}")
            panel.grid(alpha=0.25)
    panels[0][0].legend(frameon=False)
    figure.suptitle(f"The same student, trained with cross-entropy and with sparse KD\n{subtitle}", fontsize=11)
    figure.savefig(path, dpi=130, format="png")
    return path


def _draw(panel: Any, name: str, curve: Curve, progress: str, quantity: str) -> None:
    along = [getattr(point, progress) for point in curve.points]
    values = [getattr(point, quantity) for point in curve.points]
    label = f"{name}: ends at {values[-1]:.2f}" if quantity == "loss" else name
    panel.plot(along, values, color=COLOURS[name], marker=MARKERS[name], markersize=3.5, label=label)


def _new_figure() -> Any:
    try:
        # the Agg canvas alone: no window system, and pyplot's global state stays as the caller has it
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInput(
            "matplotlib is not installed and the demo draws with it; `pip install 'logitstore[demo]'` brings it.",
            kind="extra-missing",
        ) from error
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
