// What a token tells when a pointer, a finger or the keyboard is on it. The curve is the Beta over the range of tau.
const tip = document.getElementById('tip');
const safe = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
const quoted = text => safe(`"${String(text).replace(/\n/g, '\\n').replace(/\t/g, '\\t')}"`);
const row = (name, value) => `<tr><th>${name}</th><td>${value}</td></tr>`;
const fixed = (value, digits) => safe(Number(value).toFixed(digits));

function beta(d) {
  const n = 60, y = [], [low, high] = d.range.map(Number);
  for (let i = 0; i <= n; i++) {
    const z = Math.min(Math.max(i / n, .004), .996);
    y.push(Math.exp((d.a - 1) * Math.log(z) + (d.b - 1) * Math.log(1 - z)));
  }
  const top = Math.max(...y), x = share => 4 + 192 * Math.min(Math.max(share, 0), 1), at = x((d.tau - low) / (high - low));
  const curve = y.map((v, i) => `${x(i / n)},${40 - v / top * 36}`).join(' ');
  return `<svg viewBox="0 0 200 56"><polyline fill="none" stroke="var(--head)" stroke-width="1.5" points="${curve}"/>
    <line x1="${at}" x2="${at}" y1="2" y2="41" stroke="var(--hot)"/>
    <text x="2" y="53">${low}</text><text x="198" y="53" text-anchor="end">${high}</text></svg>`;
}

function show(event) {
  const token = event.target.closest('.token');
  if (!token) { tip.style.display = 'none'; return }
  const d = JSON.parse(token.dataset.d);
  let told = row('token', quoted(token.textContent)) + row('tau', fixed(d.tau, 3));
  if ('gate' in d) {
    told += row('gate', `${d.changed ? 'change' : 'keep'}, P(change) = ${fixed(d.gate, 3)}`);
    told += row('Beta', `a = ${fixed(d.a, 2)}, b = ${fixed(d.b, 2)}`);
  }
  if ('entropy' in d) {
    told += row('entropy', `${fixed(d.entropy, 3)} nats at tau = 1`) + row('probability', fixed(d.probability, 4));
  }
  const others = (d.alternatives || []).map(([text, p]) => row(quoted(text), fixed(p, 4))).join('');
  tip.innerHTML = `<table>${told}</table>${'gate' in d ? beta(d) : ''}` +
    (others ? `<small>likeliest at this temperature</small><table>${others}</table>` : '');
  tip.style.display = 'block';
  const box = token.getBoundingClientRect(), width = tip.offsetWidth, height = tip.offsetHeight;
  tip.style.left = Math.max(4, Math.min(box.left, innerWidth - width - 4)) + 'px';
  tip.style.top = (box.bottom + height + 8 < innerHeight ? box.bottom + 6 : Math.max(4, box.top - height - 6)) + 'px';
}
for (const kind of ['mouseover', 'focusin', 'click']) document.addEventListener(kind, show);
document.addEventListener('scroll', () => tip.style.display = 'none', true);
