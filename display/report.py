"""The report of a run as one HTML page: no server, no network, light and dark, on a telephone and on a desk.

Figures and completions come in (plot.py), a string goes out.  Colours of lines and text are CSS variables, so that the
page follows the reader's scheme; a token's temperature is a tint over whatever the background is.  Imports nothing local.
"""

import html
import json

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#6a737d;--page:#fff;--card:#f6f7f9;--line:#d7dbe0;
--c0:#0969da;--c1:#cf222e;--c2:#1a7f37;--c3:#8250df;--c4:#9a6700;--c5:#57606a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa4ae;--page:#101418;--card:#181d23;--line:#333b44;
--c0:#58a6ff;--c1:#ff7b72;--c2:#56d364;--c3:#bc8cff;--c4:#e3b341;--c5:#aab4be}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:76rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.2em 0}h2{font-size:1.15rem;margin:2em 0 .6em}small,figcaption,th{color:var(--soft)}
.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
.pair{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr))}
.pair+.pair{margin-top:1rem}
figure,.card{margin:0;padding:.8rem;background:var(--card);border:1px solid var(--line);border-radius:8px;min-width:0}
figcaption b{color:var(--ink)}svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}.key{font-size:12px;color:var(--soft)}
.key span{white-space:nowrap;margin-right:.8em}.key i{display:inline-block;width:1.1em;height:3px;vertical-align:middle;margin-right:.3em}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:.25em .7em;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
.text{font:14px/1.9 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap;max-height:28rem;overflow-y:auto}
.token{border-radius:3px;padding:2px 0;cursor:default}.token:hover,.token:focus{outline:1px solid var(--ink)}
.right{color:var(--c2)}.wrong{color:var(--c1)}.scale span{font:12px ui-monospace,monospace;padding:3px 7px}
#tip{position:fixed;display:none;z-index:9;max-width:min(20rem,94vw);padding:.6rem .8rem;font-size:13px;background:var(--page);
border:1px solid var(--line);border-radius:8px;box-shadow:0 4px 18px #0004;pointer-events:none}
#tip svg text{font-size:9px}#tip td,#tip th{padding:0 .6em 0 0;border:0}#tip table{font-size:13px}
"""

# What a token says when a pointer, a finger or the keyboard is on it; the curve is the Beta over the range of tau.
SCRIPT = """
const tip=document.getElementById('tip');
function show(e){const s=e.target.closest('.token');if(!s){tip.style.display='none';return}
const d=JSON.parse(s.dataset.d),row=(k,v)=>`<tr><th>${k}</th><td>${v}</td></tr>`,
safe=t=>JSON.stringify(t).replace(/[&<>]/g,c=>`&#${c.charCodeAt(0)};`);let t=row('token',safe(s.textContent))+row('tau',d.tau.toFixed(3));
if('gate' in d)t+=row('gate',`${d.changed?'change':'keep'}, P(change) = ${d.gate.toFixed(3)}`)+row('Beta',`a = ${d.a.toFixed(2)}, b = ${d.b.toFixed(2)}`);
if('entropy' in d)t+=row('entropy',`${d.entropy.toFixed(3)} nats at tau = 1`)+row('probability',d.probability.toFixed(4));
let g='';if('gate' in d){const n=60,y=[];for(let i=0;i<=n;i++){const z=Math.min(Math.max(i/n,.004),.996);
y.push(Math.exp((d.a-1)*Math.log(z)+(d.b-1)*Math.log(1-z)))}const m=Math.max(...y),x=i=>4+i/n*192;
const at=4+Math.min(Math.max((d.tau-d.range[0])/(d.range[1]-d.range[0]),0),1)*192;
g=`<svg viewBox="0 0 200 56"><polyline fill="none" stroke="var(--c0)" stroke-width="1.5" points="${y.map((v,i)=>x(i)+','+(40-v/m*36)).join(' ')}"/>
<line x1="${at}" x2="${at}" y1="2" y2="41" stroke="var(--c1)"/><text x="2" y="53">${d.range[0]}</text><text x="198" y="53" text-anchor="end">${d.range[1]}</text></svg>`}
const others=(d.alternatives||[]).map(([w,p])=>row(safe(w),p.toFixed(4))).join('');
tip.innerHTML=`<table>${t}</table>${g}`+(others?`<small>likeliest at this temperature</small><table>${others}</table>`:'');
tip.style.display='block';const r=s.getBoundingClientRect(),w=tip.offsetWidth,h=tip.offsetHeight;
tip.style.left=Math.max(4,Math.min(r.left,innerWidth-w-4))+'px';tip.style.top=(r.bottom+h+8<innerHeight?r.bottom+6:Math.max(4,r.top-h-6))+'px'}
for(const kind of ['mouseover','focusin','click'])document.addEventListener(kind,show);
document.addEventListener('scroll',()=>tip.style.display='none',true);
"""


def shade(temperature: float, high: float) -> tuple[float, float, float, float]:
    """Red, green, blue and opacity: blue is cold, red hot, and the middle of [0, high] has no colour."""
    share = min(max(temperature / high, 0.0), 1.0)
    colour = (0.10, 0.45, 0.95) if share < 0.5 else (0.95, 0.25, 0.15)
    return *colour, round(abs(share - 0.5) * 1.5, 3)


def tint(temperature: float, high: float) -> str:
    red, green, blue, strength = shade(temperature, high)
    return f"background:rgb({255 * red:.0f} {255 * green:.0f} {255 * blue:.0f}/{strength})"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers in [low, high].

    >>> ticks(0.0, 1.1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = max(high - low, 1e-9) / count
    power = 10.0 ** (len(f"{int(1 / rough)}") * -1 if rough < 1 else len(f"{int(rough)}") - 1)
    step = min((factor * power for factor in (1, 2, 2.5, 5, 10, 20)), key=lambda s: abs(s - rough))
    first = -int(-low // step) if low >= 0 else int(low // step)
    found = [round(i * step, 10) for i in range(first, int(high / step) + 2)]
    return [value for value in found if low - 1e-9 <= value <= high + 1e-9]


def svg(figure) -> str:
    """A figure of plot.py as inline SVG in the page's colours."""
    width, height, left, bottom = 440, 250, 40, 34
    xs = [x for line in figure.lines for x in line.x]
    xs += [end for line in figure.lines for pair in line.x_interval or [] for end in pair]
    ys = [y for line in figure.lines for column in (line.y, line.low or [], line.high or []) for y in column]
    x_low, x_high = min(xs), max(xs)
    x_low, x_high = (x_low - 0.5, x_high + 0.5) if x_low == x_high else (x_low, x_high)
    y_low, y_high = min(ys), max(*ys, 1e-9)
    y_low, y_high = (y_low if y_low > y_high / 2 else min(y_low, 0.0)) - 0.001, y_high + 0.05 * (y_high - y_low) + 0.001

    def px(x):
        return left + 8 + (x - x_low) / (x_high - x_low) * (width - left - 20)

    def py(y):
        return height - bottom - (y - y_low) / (y_high - y_low) * (height - bottom - 10)

    parts, keys, colours = [], [], {}
    for value in ticks(y_low, y_high):
        parts.append(f'<line x1="{left}" x2="{width}" y1="{py(value):.1f}" y2="{py(value):.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{left - 6}" y="{py(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(x_low, x_high):
        parts.append(f'<text x="{px(value):.1f}" y="{height - bottom + 16}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 3}" text-anchor="middle">{html.escape(figure.x)}</text>')
    for index, line in enumerate(figure.lines):
        colour = colours.setdefault(line.label, f"var(--c{index % 6})")
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.y))
        if line.low and not line.marks:
            around = [*zip(line.x, line.high), *reversed([*zip(line.x, line.low)])]
            band = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in around)
            parts.append(f'<polygon points="{band}" fill="{colour}" opacity=".18"/>')
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for i, (x, y) in enumerate(zip(line.x, line.y)) if line.marks else []:
            said = html.escape(f"{line.label}: {figure.x} {x:.3g}, {figure.y} {y:.3g}")
            parts.append(
                f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.2" fill="{colour}"><title>{said}</title></circle>'
            )
            bars = [(x, line.low[i], x, line.high[i])] if line.low else []
            bars += [(line.x_interval[i][0], y, line.x_interval[i][1], y)] if line.x_interval else []
            parts += [
                f'<line x1="{px(a):.1f}" y1="{py(b):.1f}" x2="{px(c):.1f}" y2="{py(d):.1f}" stroke="{colour}" opacity=".6"/>'
                for a, b, c, d in bars
            ]
        keys.append(f'<span><i style="background:{colour}"></i>{html.escape(line.label)}</span>')
    caption = f"<figcaption><b>{html.escape(figure.title)}</b> {html.escape(figure.y)}</figcaption>"
    drawing = f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
    return f'<figure>{caption}{drawing}<div class="key">{"".join(keys)}</div></figure>'


def completion(row: dict, high: float) -> str:
    """A completion, each token tinted by its temperature and carrying what `log.describe` knows of it."""
    columns = dict(changed="changed", gate="gates", a="a", b="b", entropy="entropies", probability="probabilities")
    spans = []
    for i, (piece, tau) in enumerate(zip(row["pieces"], row["taus"])):
        told = {"tau": tau} | {name: row[column][i] for name, column in columns.items() if column in row}
        told |= {"alternatives": row["alternatives"][i]} if "alternatives" in row else {}
        told |= {"range": row["range"]} if "range" in row else {}
        data = html.escape(json.dumps(told), quote=True)
        spans.append(
            f'<span class="token" tabindex="0" style="{tint(tau, high)}" data-d="{data}">{html.escape(piece)}</span>'
        )
    verdict = "right" if row["reward"] else "wrong"
    when = row.get("when", f"step {row['step']}")
    head = f'<small>{when}, <b class="{verdict}">{verdict}</b></small> {html.escape(row["problem"])}'
    return f'<div class="card">{head}<div class="text">{"".join(spans)}</div></div>'


def pairs(samples: list[dict], high: float, most: int = 8) -> tuple[str, str]:
    """(before and after on the same problem, right and wrong of the same step), newest steps first."""
    of_problem: dict[str, list[dict]] = {}
    of_step: dict[int, list[dict]] = {}
    for row in samples:
        if "when" in row:
            of_problem.setdefault(row["problem"], []).append(row)
        else:
            of_step.setdefault(row["step"], []).append(row)
    steps = sorted(of_step, reverse=True)
    steps = steps[: most - 1] + steps[most - 1 :][-1:]  # and the first of all

    def side_by_side(groups) -> str:
        return "".join(f'<div class="pair">{"".join(completion(row, high) for row in rows)}</div>' for rows in groups)

    return side_by_side(of_problem.values()), side_by_side(of_step[step] for step in steps)


def table(evaluations: dict[str, dict]) -> str:
    """Every evaluation with its intervals, in percent."""
    names = [
        name for summary in evaluations.values() for name in summary if f"{name} 95%" in summary and name != "Avg@1"
    ]
    names = list(dict.fromkeys(names))
    shown = names[:1] + names[-1:] if len(names) > 1 else names
    rows = ["".join(f"<th>{cell}</th>" for cell in ("", *shown, "mean tau", "tokens"))]
    for label, summary in evaluations.items():
        cells = [html.escape(label)]
        for name in shown:
            name = name if name in summary or not name.startswith("Avg") else "Avg@1"  # greedy: one sample a problem
            low, high = summary.get(f"{name} 95%", (0, 0))
            cells.append(f"{100 * summary[name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]" if name in summary else "")
        cells += [f"{summary[name]:.2f}" if name in summary else "" for name in ("temperature", "tokens")]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    return f'<div class="wide"><table>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'


def page(name: str, settings: dict, evaluations: dict[str, dict], figures: list, samples: list[dict]) -> str:
    """The whole report."""
    high = max([1.5] + [tau for row in samples for tau in row["taus"]])
    wanted = ("model", "task", "policy", "token_objective", "temperature_objective", "schedule", "steps", "seed")
    told = ", ".join(f"{key.replace('_', ' ')} {settings[key]}" for key in wanted if key in settings)
    scale = "".join(f'<span style="{tint(high * i / 6, high)}">{high * i / 6:.2f}</span>' for i in range(7))
    before_and_after, right_and_wrong = pairs(samples, high)
    sections = [("Before and after", table(evaluations) if evaluations else "")]
    sections.append(("Curves", f'<div class="grid">{"".join(map(svg, figures))}</div>'))
    legend = f'<p class="scale">tau: {scale} <small>point at a token, or tap it</small></p>'
    sections.append(("The same problem, before and after", legend + before_and_after if before_and_after else ""))
    sections.append(("Right and wrong, step by step", legend + right_and_wrong if right_and_wrong else ""))
    body = "".join(f"<h2>{title}</h2>{content}" for title, content in sections if content)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(name)}</title><style>{STYLE}</style></head><body><h1>{html.escape(name)}</h1>"
        f'<small>{html.escape(told)}</small>{body}<div id="tip"></div><script>{SCRIPT}</script></body></html>\n'
    )
