"""Shows a report as a PNG chart, and as one self-contained HTML page."""

import base64
import html
import io
from typing import Any

from headrace_toolkit.errors import require
from headrace_toolkit.report import Line, Report, remark, size

_KEPT, _OTHER = "#1f6f8b", "#b8c4ca"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
p.verdict { font-size: 1.1rem; border-left: 4px solid #1f6f8b; padding: .3rem .8rem; background: #f2f7f9; }
p.warning { border-left: 4px solid #c77700; padding: .3rem .8rem; background: #fff7ea; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
th, td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; white-space: normal; }
tr.kept td { background: #eef6f8; font-weight: 600; }
tr.untried td { color: #777; }
img { max-width: 100%; margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: #666; }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def chart(report: Report) -> bytes:
    """The size, time and metric of each measured file, as a PNG.

    Raises:
        ToolkitError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", "a chart", "toolkit")
    lines = [line for line in report.lines if line.bytes is not None]
    figure = figures.Figure(figsize=(11, 1.6 + 0.45 * len(lines)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    base = lines[0]
    counts = sorted({count for line in lines for count in line.time})
    many = counts[-1] if counts else 0
    rows = f"{many} row{'s' if many > 1 else ''}"
    _bars(axes[0], lines, [(line.bytes or 0) / (base.bytes or 1) for line in lines], "bytes", "{:.2f}")
    _bars(axes[1], lines, [line.time.get(many, 0.0) for line in lines], f"time of {rows}", "{:.2f}")
    _dots(axes[2], report, lines)
    axes[0].set_yticks(range(len(lines)), [_wrapped(line.name) for line in lines])
    axes[0].invert_yaxis()
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=130, metadata={"Software": ""})
    return written.getvalue()


def page(report: Report) -> str:
    """The report with its chart, as HTML."""
    picture = base64.b64encode(chart(report)).decode()
    title = html.escape(str(report.source))
    verdict = f'<p class="verdict">{html.escape(report.verdict)}</p>' if report.verdict else ""
    warnings = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in report.warnings)
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in report.notes)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n<h1>{title}</h1>\n{verdict}\n{warnings}\n"
        f'<img alt="Size, time and {html.escape(report.metric)} of each step" src="data:image/png;base64,{picture}">\n'
        f"{_table(report)}\n{f'<ul>{notes}</ul>' if notes else ''}\n{_facts(report)}\n</body>\n</html>\n"
    )


def _bars(axes: Any, lines: list[Line], ratios: list[float], title: str, form: str) -> None:
    colours = [_KEPT if line.kept else _OTHER for line in lines]
    bars = axes.barh(range(len(lines)), ratios, color=colours, height=0.62)
    axes.bar_label(bars, [form.format(ratio) for ratio in ratios], padding=3)
    axes.axvline(1.0, color="#888", linewidth=0.8, zorder=0)
    axes.set_xlim(0, max([1.0, *ratios]) * 1.18)
    axes.set_title(f"{title} ({lines[0].name} = 1)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _dots(axes: Any, report: Report, lines: list[Line]) -> None:
    """Draws the metric of each line, with its interval if it has one."""
    for place, line in enumerate(lines):
        value, colour = line.metric or 0.0, _KEPT if line.kept else _OTHER
        if line.interval is not None:
            axes.plot(line.interval, [place, place], color=colour, linewidth=2)
        axes.plot([value], [place], "o", color=colour)
        axes.annotate(
            report.shown_metric(value), (value, place), (0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    axes.margins(x=0.2, y=0.12)
    axes.set_title(report.metric + (" (95% interval)" if any(line.interval for line in lines) else ""), fontsize=10)
    if report.share:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _wrapped(name: str) -> str:
    """A name in lines of about 30 characters, broken after commas."""
    lines = [""]
    for part in name.split(", "):
        if lines[-1] and len(lines[-1]) + len(part) > 30:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = f"{lines[-1]}, {part}" if lines[-1] else part
    return "\n".join(lines)


def _table(report: Report) -> str:
    counts = sorted({count for line in report.lines for count in line.time})
    heads = ["step", report.metric, "agreement", "largest difference", "bytes", "compressed",
             *(f"{count} row{'s' if count > 1 else ''}" for count in counts), ""]  # fmt: skip
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    return f"<table>\n<tr>{head}</tr>\n" + "\n".join(_row(report, line, counts) for line in report.lines) + "\n</table>"


def _row(report: Report, line: Line, counts: list[int]) -> str:
    cells = [
        line.name,
        report.shown_metric(line.metric),
        "" if line.agreement is None else f"{line.agreement:.1%}",
        "" if line.largest_difference is None else f"{line.largest_difference:.2g}",
        "" if line.bytes is None else size(line.bytes),
        "" if line.gzip_bytes is None else size(line.gzip_bytes),
        *(f"{line.time[count]:.2f}" if count in line.time else "" for count in counts),
        remark(line),
    ]
    kind = "kept" if line.kept else "untried" if line.bytes is None else ""
    return f'<tr class="{kind}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _facts(report: Report) -> str:
    rows, machine = report.rows, report.machine
    facts = [
        ("source", f"{report.source}, SHA-256 {report.source.sha256}"),
        ("rows", f"{rows.count} of {rows.name}" if rows.name else f"{rows.count} random ones"),
        ("machine", f"{machine.architecture}, {', '.join(machine.flags) or 'no flags known'}, one thread"),
        ("times", "CPU time of the calling thread, relative to the first file's; all files took turns"),
    ]
    if report.calibration is not None:
        facts.insert(2, ("calibrated on", f"{report.calibration.count} of {report.calibration.name}"))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts) + "</dl>"
