r"""What holds for every picture."""

from matplotlib.figure import Figure


def assert_nothing_is_cut_off(figure: Figure) -> None:
    r"""All axes of `figure` lie inside it with their labels, and none is empty."""
    figure.draw_without_rendering()
    frame = figure.bbox
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= frame.x1 + 1 and box.y1 <= frame.y1 + 1
        assert ax.has_data() or ax.patches
