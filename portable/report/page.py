"""A report as one HTML page that needs nothing else: no script, no font, no network. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from convert.report import Estimate, Evaluation, Measured
from portable.progress import size
from portable.report.plot import plot, series
from portable.report.summary import Summary, error_of

LIGHT = ("#1f6feb", "#d1570b", "#1a8f5a", "#b0399a", "#b58900", "#0e9aa7", "#c0392b", "#6a51c7")
DARK = ("#6cb2ff", "#ff9d5c", "#58d39b", "#f08ad8", "#e6c65a", "#5fd4de", "#ff8277", "#b3a0ff")
STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2128;--dim:#5f6b7a;--line:#e3e7ec;--card:#f6f8fa;%s}
@media(prefers-color-scheme:dark){:root{--bg:#14181d;--fg:#e4e8ed;--dim:#98a3b1;--line:#2b323b;
--card:#1c2229;%s}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1000px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:17px;margin:36px 0 10px}
p{margin:6px 0}.dim,.tick{color:var(--dim);fill:var(--dim)}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px;
flex:1 1 150px}
.card b{display:block;font-size:21px;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--dim);font-weight:500;font-size:13px}
th:first-child,td:first-child{text-align:left}
code{font:13px ui-monospace,monospace}
svg{width:100%%;height:auto;display:block}
.grid{stroke:var(--line)}.tick{font-size:12px}
polyline{fill:none;stroke-width:1.6;opacity:.55}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0 0;padding:0;list-style:none;
font-size:13px}
.key i{display:inline-block;width:10px;height:10px;border-radius:50%%;margin-right:6px}
.bar{display:inline-block;height:8px;border-radius:4px;background:var(--c0);vertical-align:middle}
details summary{cursor:pointer;color:var(--dim)}
%s
"""


def page(summary: Summary) -> str:
    """The whole page, UTF-8."""
    done = summary.done
    title = f"{escape(done.name)} · {escape(done.quant)}"
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="dim">{escape(done.architecture)} · {done.parameters:,} parameters 参数 · '
        f"{done.tensors} tensors 张量 · converted in {done.seconds:.1f} s</p>",
        _cards(summary),
        *_evaluation(done.evaluation),
        "<h2>Relative error by layer · 各层相对误差</h2>",
        plot(summary.quantized),
        _key(summary.quantized),
        '<p class="dim">√(Σ(x−q)² / Σx²) of each tensor, x its values and q what they became.</p>',
        "<h2>Types · 类型</h2>",
        _types(summary),
        "<h2>Worst tensors · 误差最大的张量</h2>",
        _table(summary.worst),
        *_notes(summary),
        f"<h2>All tensors · 全部张量</h2><details><summary>{len(summary.tensors)}</summary>",
        _table(summary.tensors),
        "</details>",
    ]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_style()}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _style() -> str:
    light, dark = (
        "".join(f"--c{i}:{colour};" for i, colour in enumerate((*colours, "var(--dim)")))
        for colours in (LIGHT, DARK)
    )
    rules = "".join(
        f".s{i} circle,.s{i}{{fill:var(--c{i})}}.s{i} polyline{{stroke:var(--c{i});fill:none}}"
        f".k{i}{{background:var(--c{i})}}"
        for i in range(len(LIGHT) + 1)
    )
    return STYLE % (light, dark, rules)


def _cards(summary: Summary) -> str:
    figures = [
        (size(summary.done.size), "size 大小"),
        (f"{summary.bits:.2f}", "bits per weight 每权重位数"),
        (f"{100 * summary.error:.2f} %", "relative error 相对误差"),
    ]
    if found := summary.done.evaluation:
        figures.append((f"{found.perplexity.value:.4g}", "perplexity 困惑度"))
        if found.divergence:
            figures.append((f"{found.divergence.mean.value:.4g}", "KL divergence 散度"))
    cards = (f'<div class="card"><b>{value}</b>{label}</div>' for value, label in figures)
    return f'<div class="cards">{"".join(cards)}</div>'


def _estimate(found: Estimate) -> str:
    return f"{found.value:.4g} ± {found.error:.2g}"


def _evaluation(found: Evaluation | None) -> Iterator[str]:
    if not found:
        return
    yield "<h2>On the text · 文本评估</h2>"
    yield f'<p class="dim">{found.tokens:,} tokens scored in {found.chunks} chunks of '
    yield f"{found.context}.</p>"
    rows = [("perplexity 困惑度", _estimate(found.perplexity))]
    if other := found.divergence:
        rows += [
            ("perplexity of the original 原模型", _estimate(other.base_perplexity)),
            ("ratio 比值", _estimate(other.perplexity_ratio)),
            ("KL divergence, mean 平均 (nats)", _estimate(other.mean)),
            ("median 中位数", f"{other.median:.4g}"),
            ("99th percentile 第 99 百分位", f"{other.percentile_99:.4g}"),
            ("maximum 最大", f"{other.maximum:.4g}"),
            ("same likeliest token 首选相同", f"{100 * other.same_top.value:.2f} %"),
        ]
    cells = "".join(f"<tr><td>{name}<td>{value}</tr>" for name, value in rows)
    yield f'<div class="scroll"><table>{cells}</table></div>'
    if found.skipped:
        yield f'<p class="dim">{escape(found.skipped)}</p>'


def _key(tensors: Sequence[Measured]) -> str:
    entries = (
        f'<li><i class="k{i}"></i><code>{escape(name)}</code></li>'
        for i, (name, _) in enumerate(series(tensors))
    )
    return f'<ul class="key">{"".join(entries)}</ul>'


def _types(summary: Summary) -> str:
    whole = sum(tensor.size for tensor in summary.tensors) or 1
    rows = []
    for name, tensors in summary.by_type():
        share = sum(tensor.size for tensor in tensors) / whole
        bar = f'<span class="bar" style="width:{200 * share:.1f}px"></span>'
        rows.append(
            f"<tr><td><code>{name}</code><td>{len(tensors)}<td>{size(share * whole)}"
            f'<td style="text-align:left">{bar} {100 * share:.1f} %'
            f"<td>{tensors[0].bits:.4g}<td>{_percent(error_of(tensors))}</tr>"
        )
    head = ("type 类型", "tensors 张量", "size 大小", "", "bits 位", "error 误差")
    return _rows(head, rows)


def _table(tensors: Iterable[Measured]) -> str:
    rows = []
    for tensor in tensors:
        shape = " × ".join(map(str, tensor.shape))
        kind = f"{tensor.type} (not {tensor.instead_of})" if tensor.instead_of else tensor.type
        rows.append(
            f"<tr><td><code>{escape(tensor.name)}</code><td><code>{kind}</code><td>{shape}"
            f"<td>{size(tensor.size)}<td>{tensor.bits:.4g}<td>{_percent(tensor.error)}</tr>"
        )
    head = ("tensor 张量", "type 类型", "shape 形状", "size 大小", "bits 位", "error 误差")
    return _rows(head, rows)


def _rows(head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f"<th>{cell}" for cell in head)
    return f'<div class="scroll"><table><tr>{cells}</tr>{"".join(rows)}</table></div>'


def _percent(error: float) -> str:
    return f"{100 * error:.3f} %" if error else "0"


def _notes(summary: Summary) -> Iterator[str]:
    notes = [escape(warning) for warning in summary.done.warnings]
    if summary.fallbacks:
        wanted = sorted({(t.instead_of, t.type, t.shape[-1]) for t in summary.fallbacks})
        notes += [
            f"{old} became {new} where rows have {columns} values, which its blocks do not divide"
            for old, new, columns in wanted
        ]
    if summary.partial:
        notes.append("The conversion was interrupted: the errors are those of its last run.")
    if notes:
        yield "<h2>Notes · 说明</h2>"
        yield "".join(f"<p>{note}</p>" for note in notes)
