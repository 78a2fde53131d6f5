// Draws measured settings: a chart of seconds against quality, pictures, and the setting that is picked.
// Every text goes through textContent: nothing from a prompt or a file is ever read as HTML.
const at = (name) => element.querySelector(".dx-" + name);
const root = element.querySelector(".dx");
const SVG = "http://www.w3.org/2000/svg";
const MARKS = {       // each family has a shape as well as a colour
  "no accelerator": "M-7,0A7,7 0 1 1 7,0A7,7 0 1 1 -7,0Z", "step caching": "M-6,0A6,6 0 1 1 6,0A6,6 0 1 1 -6,0Z",
  "block caching": "M-5.4,-5.4H5.4V5.4H-5.4Z", "layer caching": "M0,-7.4L7.4,0L0,7.4L-7.4,0Z",
  "guidance": "M0,-7L6.8,5H-6.8Z", "fewer tokens": "M0,7L6.8,-5H-6.8Z",
  "resolution": "M-3.5,-6H3.5L7,0L3.5,6H-3.5L-7,0Z",
  "combined": "M0,-8L2.2,-2.6L8,-2.6L3.4,1L5,6.8L0,3.4L-5,6.8L-3.4,1L-8,-2.6L-2.2,-2.6Z",
  "fewer steps": "M-6,-3L-3,-6L0,-3L3,-6L6,-3L3,0L6,3L3,6L0,3L-3,6L-6,3L-3,0Z",
  "other": "M-2,-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
};
const PLAIN = "no accelerator", FEWER = "fewer steps";
let data = null;         // what is on show
let over = null;         // the sweep that was stopped last: news of it may still be under way
let tip = null;
const now = { metric: "", by: "mean", across: "seconds", steps: null, view: "chart", off: new Set(), best: false,
  picked: null, prompt: 0, wish: null, flipped: false, code: "snippet" };

function make(tag, cls, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}
function draw(tag, given, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function fill(node, ...children) { node.replaceChildren(...children.filter((c) => c !== null && c !== undefined)); }
const look = (family) => "dx-" + (family in MARKS ? family : "other").replace(/ /g, "-");
function mark(family) { return draw("path", { d: MARKS[family] || MARKS.other, class: "dx-mark " + look(family) }); }
function icon(family) { return draw("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, mark(family)); }

// -- numbers ----------------------------------------------------------------------------------------------------
const metric = () => data.metrics.find((m) => m.name === now.metric) || { name: "", label: "", unit: "", less: false };
function value(point) {                       // null: there is none
  const score = point.scores[now.metric];
  if (!score) return null;
  const found = score[now.by];
  return found === null ? Infinity : found;
}
const better = (v) => (metric().less ? -v : v);
const across = (point) => point[now.across];
const cost = (point) => (now.across === "seconds" ? point.seconds : -point.speedup);
const isControl = (point) => point.role === "control" || point.family === FEWER;
const placed = (point) => across(point) !== null && value(point) !== null;
function said(v, m = metric()) {
  if (v === null || v === undefined) return "-";
  if (!Number.isFinite(v)) return "identical";
  if (m.unit === "dB") return v.toFixed(1) + " dB";
  return m.unit === "%" ? Math.round(v * 100) + " %" : v.toFixed(3);
}
const seconds = (v) => (v === null ? "-" : (v < 10 ? v.toFixed(2) : v.toFixed(1)) + " s");
const times = (v) => (v === null ? "-" : v.toFixed(2) + "x");
const cross = (v) => (now.across === "seconds" ? seconds(v) : times(v));
function bytes(v) {
  if (!v) return "none";
  const mega = v / 2 ** 20;
  return mega < 0.1 ? Math.round(v / 1024) + " kB" : mega < 1024 ? mega.toFixed(1) + " MB" : (mega / 1024).toFixed(2) + " GB";
}
const count = (v) => (Number.isInteger(v) ? String(v) : v.toFixed(1));

function beats(a, b) {
  const x = cost(a) - cost(b), y = better(value(a)) - better(value(b));
  return x <= 0 && (y >= 0 || Number.isNaN(y)) && (x < 0 || y > 0);
}
function frontier(points) {
  const front = points.filter((p) => !points.some((other) => other !== p && beats(other, p)));
  return front.sort((a, b) => cost(a) - cost(b));
}
function stepped() { return data.points.filter((p) => now.steps === null || p.steps === now.steps); }
function visible() {
  const on = stepped().filter((p) => !now.off.has(p.family));
  if (!now.best) return on;
  const front = new Set(frontier(on.filter(placed)));
  return on.filter((p) => front.has(p));
}
const byId = (id) => stepped().find((p) => p.id === id);

// -- the chart ---------------------------------------------------------------------------------------------------
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough) || rough;
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) found.push(v);
  const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9) + (Math.round((step / power) * 10) === 25 ? 1 : 0));
  return found.map((v) => [v, v.toFixed(digits)]);
}
function span(values) {
  const low = Math.min(...values), high = Math.max(...values), room = (high - low) * 0.07 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}
function layout(points) {
  const width = Math.max(280, at("plot").clientWidth), narrow = width < 520;
  const height = Math.round(Math.min(540, Math.max(300, width * 0.78)));
  const finite = points.map(value).filter(Number.isFinite), band = points.some((p) => value(p) === Infinity);
  const box = { width, height, narrow, left: 46, right: width - 12, top: band ? 46 : 22, bottom: height - 44 };
  const xs = span(points.map(across)), ys = span(finite.length ? finite : [0, 1]);
  box.xs = xs; box.ys = ys; box.band = band;
  box.x = (v) => box.left + ((v - xs[0]) / (xs[1] - xs[0])) * (box.right - box.left);
  box.y = (v) => {
    if (!Number.isFinite(v)) return 22;
    const part = (v - ys[0]) / (ys[1] - ys[0]);
    return metric().less ? box.top + part * (box.bottom - box.top) : box.bottom - part * (box.bottom - box.top);
  };
  box.inside = (x) => Math.min(box.right, Math.max(box.left, x));
  box.within = (y) => Math.min(box.bottom, Math.max(box.top, y));
  return box;
}
function axes(box, finite) {
  const m = metric(), made = [];
  for (const [v, text] of ticks(...box.xs, box.narrow ? 5 : 8)) {
    made.push(draw("path", { class: "grid", d: `M${box.x(v)} ${box.top}V${box.bottom}` }));
    made.push(draw("text", { x: box.x(v), y: box.bottom + 18, "text-anchor": "middle" }, text));
  }
  for (const [v, text] of finite ? ticks(...box.ys, 6) : []) {
    made.push(draw("path", { class: "grid", d: `M${box.left} ${box.y(v)}H${box.right}` }));
    made.push(draw("text", { x: box.left - 7, y: box.y(v) + 4, "text-anchor": "end" }, m.unit === "%" ? Math.round(v * 100) + "" : text));
  }
  if (box.band) {
    made.push(draw("path", { class: "grid", d: `M${box.left} 22H${box.right}`, "stroke-dasharray": "2 4" }));
    made.push(draw("text", { x: box.right, y: 14, "text-anchor": "end" }, "identical to the baseline"));
  }
  const down = now.across === "seconds" ? "seconds for a picture (less is better)" : "speed-up, measured (more is better)";
  made.push(draw("text", { class: "title", x: (box.left + box.right) / 2, y: box.height - 6, "text-anchor": "middle" }, down));
  const judged = now.by === "worst" ? ", worst picture" : "";
  made.push(draw("text", { class: "title", x: 4, y: box.band ? 14 : 12 }, `${m.label}${m.unit ? " in " + m.unit : ""}${judged}${m.less ? ", less is better" : ""}`));
  return made;
}
function way(points, box) { return points.map((p, i) => `${i ? "L" : "M"}${box.x(across(p)).toFixed(1)} ${box.y(value(p)).toFixed(1)}`).join(""); }
function bars(point, box) {
  const x = box.x(across(point)), y = box.y(value(point)), made = [];
  const [low, high] = point[now.across + "_range"];
  if (low !== null && high > low) {
    const a = box.inside(box.x(low)) - x, b = box.inside(box.x(high)) - x;
    made.push(draw("path", { class: "spread", d: `M${a} 0H${b}M${a} -4V4M${b} -4V4` }));
  }
  const score = point.scores[now.metric];
  if (now.by === "mean" && score.prompt && Number.isFinite(score.worst) && score.worst !== null) {
    const down = box.within(box.y(score.worst)) - y;
    made.push(draw("path", { class: "spread", d: `M0 0V${down}M-4 ${down}H4` }));
  }
  return made;
}
function dot(point, box, front) {
  const x = box.x(across(point)), y = box.y(value(point)), on = point.id === now.picked;
  const dull = front.includes(point) || isControl(point) || point.role === "baseline" ? "" : " beaten";
  const node = draw("g", { class: `dx-point ${look(point.family)}${dull}`, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
    role: "radio", "aria-checked": on, tabindex: on ? 0 : -1, "data-id": point.id, "data-recipe": point.recipe,
    "aria-label": `${point.name}: ${seconds(point.seconds)}, ${times(point.speedup)}, ${metric().label} ${said(value(point))}${front.includes(point) ? ", on the frontier" : ""}` },
    ...bars(point, box), draw("circle", { r: 11, class: "ring" }), draw("circle", { r: 14, fill: "transparent" }), mark(point.family));
  return node;
}
function labels(points, front, box) {           // names where there is room; the picked one first
  const taken = points.map((p) => [box.x(across(p)) - 8, box.y(value(p)) - 8, 16, 16]), made = [];
  const hits = (a) => taken.some((b) => a[0] < b[0] + b[2] && b[0] < a[0] + a[2] && a[1] < b[1] + b[3] && b[1] < a[1] + a[3]);
  const wanted = points.filter((p) => p.id === now.picked);
  const rest = points.filter((p) => p.id !== now.picked && (p.role === "baseline" || (!box.narrow && (front.includes(p) || isControl(p)))));
  for (const p of [...wanted, ...rest]) {
    const name = p.name.length > 40 ? p.name.slice(0, 39) + "…" : p.name, wide = name.length * 6.1 + 4;
    const x = box.x(across(p)), y = box.y(value(p));
    const spots = [[x + 11, y - 7, "start", x + 11, y + 4], [x - 11 - wide, y - 7, "end", x - 11, y + 4],
      [x - wide / 2, y - 27, "middle", x, y - 15], [x - wide / 2, y + 12, "middle", x, y + 24]];
    const spot = spots.find((s) => s[0] > box.left - 2 && s[0] + wide < box.right + 10 && s[1] > -4 && s[1] + 14 < box.bottom && !hits([s[0], s[1], wide, 14]));
    if (!spot) continue;
    taken.push([spot[0], spot[1], wide, 14]);
    made.push(draw("text", { class: "label", x: spot[3], y: spot[4], "text-anchor": spot[2] }, name));
  }
  return made;
}
function chart() {
  const points = visible().filter(placed), plot = at("plot"), had = plot.contains(element.getRootNode().activeElement);
  tip = null;
  const off = stepped().some(placed) ? "every kind is switched off." : "nothing here could be measured.";
  if (!points.length) return fill(plot, make("p", "dx-none", "Nothing to draw: " + off));
  const box = layout(points), front = frontier(points);
  const plain = stepped().filter((p) => placed(p) && (isControl(p) || p.role === "baseline") && !now.off.has(FEWER) && points.includes(p));
  plain.sort((a, b) => cost(a) - cost(b));
  const lines = [draw("path", { class: "control", d: way(plain, box) }), draw("path", { class: "front", d: way(front, box) })];
  if (now.wish && now.wish.kind === "time") { const x = box.inside(box.x(now.wish.at)); lines.push(draw("path", { class: "wish", d: `M${x} ${box.top}V${box.bottom}` })); }
  if (now.wish && now.wish.kind === "good") { const y = box.within(box.y(now.wish.at)); lines.push(draw("path", { class: "wish", d: `M${box.left} ${y}H${box.right}` })); }
  const order = [...points].sort((a, b) => cost(b) - cost(a) || better(value(a)) - better(value(b)));
  const top = order.filter((p) => p.id === now.picked), dots = [...order.filter((p) => p.id !== now.picked), ...top].map((p) => dot(p, box, front));
  if (!top.length && dots.length) dots[dots.length - 1].setAttribute("tabindex", "0");
  fill(plot, draw("svg", { viewBox: `0 0 ${box.width} ${box.height}`, height: box.height, role: "radiogroup", "aria-label": "settings by time and quality" },
    ...axes(box, points.some((p) => Number.isFinite(value(p)))), ...lines, ...dots, ...labels(points, front, box)));
  if (had) { const node = plot.querySelector('.dx-point[tabindex="0"]'); if (node) node.focus({ preventScroll: true }); }
}
const pointOf = (e) => { const node = e.target.closest && e.target.closest(".dx-point"); return node ? byId(node.dataset.id) : null; };
function hint(point, node) {
  if (tip) tip.remove();
  tip = null;
  if (!point) return;
  tip = make("div", "dx-tip", make("b", "", point.name), `${seconds(point.seconds)} · ${times(point.speedup)} · ${metric().label} ${said(value(point))}`);
  at("plot").append(tip);
  const spot = node.getBoundingClientRect(), home = at("plot").getBoundingClientRect();
  const x = spot.left + spot.width / 2 - home.left, y = spot.top + spot.height / 2 - home.top;
  tip.style.left = Math.max(0, Math.min(home.width - tip.offsetWidth, x - tip.offsetWidth / 2)) + "px";
  tip.style.top = (y > tip.offsetHeight + 24 ? y - tip.offsetHeight - 18 : y + 18) + "px";
}
at("plot").addEventListener("mouseover", (e) => { const p = pointOf(e); hint(p, p && e.target.closest(".dx-point")); });
at("plot").addEventListener("mouseleave", () => hint(null));
at("plot").addEventListener("focusout", () => hint(null));
at("plot").addEventListener("click", (e) => { const p = pointOf(e); if (p) { now.wish = null; pick(p.id, "chart"); } });
at("plot").addEventListener("keydown", (e) => {
  const p = pointOf(e), move = { ArrowRight: ["x", 1], ArrowLeft: ["x", -1], ArrowUp: ["y", 1], ArrowDown: ["y", -1], Home: ["x", -1e6], End: ["x", 1e6] }[e.key];
  if (!p || (!move && e.key !== " " && e.key !== "Enter")) return;
  e.preventDefault();
  now.wish = null;
  if (!move) return pick(p.id, "chart");
  const sign = move[0] === "y" && metric().less ? -1 : 1;
  const key = move[0] === "x" ? (q) => [across(q), value(q)] : (q) => [sign * value(q), across(q)];
  const order = visible().filter(placed).sort((a, b) => { const [u, v] = [key(a), key(b)]; return u[0] === v[0] ? v[1] < u[1] ? 1 : -1 : u[0] - v[0]; });
  const to = Math.max(0, Math.min(order.length - 1, order.indexOf(p) + move[1]));
  pick(order[to].id, "chart");
});

// -- wishes: best within this time, fastest at this quality --------------------------------------------------------
function answer(wish) {
  const points = visible().filter(placed), fits = points.filter((p) => (wish.kind === "time"
    ? cost(p) <= (now.across === "seconds" ? wish.at : -wish.at) + 1e-9 : better(value(p)) >= better(wish.at) - 1e-9));
  const least = (f, g) => fits.reduce((a, b) => (a === null || f(b) < f(a) || (f(b) === f(a) && g(b) < g(a)) ? b : a), null);
  const good = (p) => -better(value(p));
  return wish.kind === "time" ? least(good, cost) : least(cost, good);
}
function range(input, values, at_) {
  const low = Math.min(...values), high = Math.max(...values);
  input.min = low; input.max = high; input.step = "any";
  input.value = at_ === null ? (low + high) / 2 : at_;
  input.disabled = !(high > low);
}
function wishes() {
  const points = visible().filter(placed), finite = points.map(value).filter(Number.isFinite);
  at("time").parentElement.hidden = !points.length;
  at("good").parentElement.hidden = !finite.length;
  if (!points.length) return;
  const chosen = byId(now.picked), wish = now.wish || {};
  range(at("time"), points.map(across), wish.kind === "time" ? wish.at : chosen && placed(chosen) ? across(chosen) : null);
  if (finite.length) range(at("good"), finite, wish.kind === "good" ? wish.at : chosen && placed(chosen) && Number.isFinite(value(chosen)) ? value(chosen) : null);
  const time = Number(at("time").value), good = Number(at("good").value);
  fill(at("timesaid"), now.across === "seconds" ? "Best within " : "Best at no less than ", make("b", "", cross(time)));
  fill(at("goodsaid"), metric().less ? "Fastest with no more than " : "Fastest with at least ", make("b", "", said(good)));
  at("time").setAttribute("aria-valuetext", cross(time)); at("good").setAttribute("aria-valuetext", said(good));
}
function wished(kind, input) {
  now.wish = { kind, at: Number(input.value) };
  const found = answer(now.wish);
  if (found) pick(found.id);
}
at("time").addEventListener("input", (e) => wished("time", e.target));
at("good").addEventListener("input", (e) => wished("good", e.target));

// -- pictures ----------------------------------------------------------------------------------------------------
function strip(actions) { return actions.map((action, i) => { const cell = make("i", action); cell.title = `step ${i + 1}: ${action}`; return cell; }); }
function image(src, alt) {
  if (!src) return make("div", "dx-none", "no picture here");
  const node = make("img");
  node.src = src; node.alt = alt; node.draggable = false; node.loading = "lazy";
  return node;
}
function scored(point) {
  const shown = point.shown[now.prompt] || {}, m = metric();
  if (point.role === "baseline" && !(m.name in shown)) return "baseline";
  return shown.identical && m.name === "psnr" ? "identical" : m.name in shown ? said(shown[m.name]) : "-";
}
function grid() {
  const order = visible().sort((a, b) => (b.role === "baseline") - (a.role === "baseline") || (a.seconds === null) - (b.seconds === null) || cost(a) - cost(b));
  fill(at("grid"), ...order.map((p) => {
    const mini = make("span", "dx-mini", ...strip(p.actions)), failed = p.seconds === null;
    const node = make("button", "dx-shot " + look(p.family), failed ? make("div", "dx-none", "could not be measured") : image(p.pictures[now.prompt], p.name),
      make("span", "t", p.name), make("span", "s", failed ? p.errors[0] || "" : `${times(p.speedup)} · ${scored(p)}`), failed ? null : mini);
    node.type = "button"; node.dataset.id = p.id; node.setAttribute("aria-pressed", p.id === now.picked);
    return node;
  }));
}
at("grid").addEventListener("click", (e) => { const shot = e.target.closest(".dx-shot"); if (shot) { now.wish = null; pick(shot.dataset.id, "grid"); } });

// -- the picked setting --------------------------------------------------------------------------------------------
function card(label, value_, lines, tone) {
  return make("div", "dx-card " + (tone || ""), make("div", "l", label), make("div", "v", value_), ...lines.filter(Boolean).map((s) => make("div", "s", s)));
}
function cards(p) {
  const spread = (r, text) => (r[0] !== null && r[1] > r[0] ? `${text(r[0]).replace(/ s$/, "")} to ${text(r[1])}, ${p.spread}` : "one measurement");
  const m = metric(), score = p.scores[now.metric], plain = p.role === "baseline", fast = !plain && p.speedup > 1.05;
  const worst = score && score.prompt ? `worst ${said(score.worst === null ? Infinity : score.worst)}` : "one picture";
  const made = [card("Speed-up", times(p.speedup), [plain ? "by definition" : spread(p.speedup_range, times)], plain ? "" : fast ? "good" : "warn"),
    card("Seconds", seconds(p.seconds), [spread(p.seconds_range, seconds)])];
  if (score) made.push(card(m.asks, said(score.mean === null ? Infinity : score.mean), [m.label, worst]));
  else made.push(card("Same picture?", plain ? "it is the one" : "-", []));
  made.push(card("Network calls", count(p.calls), [`of ${count(p.asked)} asked for`]), card("Held memory", bytes(p.cache), []));
  return made;
}
function against(p) {
  if (!placed(p) || p.role === "baseline") return "";
  const others = stepped().filter((q) => q !== p && placed(q)), winner = others.filter((q) => beats(q, p)).sort((a, b) => cost(a) - cost(b))[0];
  const plain = others.filter((q) => isControl(q) && cost(q) <= cost(p)).sort((a, b) => better(value(b)) - better(value(a)))[0];
  const first = winner ? `Beaten by ${winner.name}: ${times(winner.speedup)} at ${said(value(winner))}.` : "On the frontier: nothing measured here is both faster and better.";
  return plain && !isControl(p) && plain !== winner ? `${first} Plainly fewer steps in this time (${plain.name}): ${said(value(plain))}.` : first;
}
function pictures(p) {
  const base = stepped().find((q) => q.role === "baseline" && q.steps === p.steps), there = base && base.pictures[now.prompt];
  const shot = image(now.flipped && there ? there : p.pictures[now.prompt], now.flipped ? "baseline" : p.name);
  const flip = make("button", "", shot);
  flip.type = "button"; flip.title = "press: baseline and back"; flip.setAttribute("aria-pressed", now.flipped); flip.className = "dx-flip";
  const mine = make("figure", "", flip, make("figcaption", "", now.flipped ? "the baseline; press again" : `this setting: ${scored(p)}; press to flip`));
  const made = [make("figure", "", image(there, "baseline"), make("figcaption", "", "baseline"))];
  fill(at("pics"), ...made, ...(p.role === "baseline" ? [] : [mine]));
  flip.addEventListener("click", () => { now.flipped = !now.flipped; pictures(p); const again = at("flip"); if (again) again.focus({ preventScroll: true }); });
}
function picked() {
  const p = byId(now.picked);
  at("picked").hidden = !p;
  if (!p) return;
  const more = [p.family, p.name !== p.recipe && p.role === "variant" && p.recipe.length < 90 ? p.recipe : "", p.cells > 1 ? `${p.cells} pictures` : ""].filter(Boolean).join(" · ");
  const line = make("p", look(p.family)); line.append(icon(p.family), more);
  fill(at("name"), make("h3", "", p.name), line);
  fill(at("cards"), ...(p.seconds === null ? [] : cards(p)));
  at("against").textContent = against(p);
  const warned = [...p.errors.map((text) => "Could not be measured: " + text), ...p.warnings];
  fill(at("warned"), ...warned.map((text) => make("div", "dx-message", text)));
  pictures(p);
  const counts = {};
  for (const action of p.actions) counts[action] = (counts[action] || 0) + 1;
  const keys = Object.keys(counts).map((a) => make("span", "dx-key", make("i", a), `${a} ${counts[a]}`));
  fill(at("legend"), ...keys);
  fill(at("strip"), ...strip(p.actions));
  at("strip").setAttribute("aria-label", "what each step did: " + Object.keys(counts).map((a) => `${counts[a]} ${a}`).join(", "));
  at("axis").hidden = !p.actions.length;
  code(p);
}
function code(p) {
  if (!p[now.code]) now.code = "snippet";
  element.querySelectorAll(".dx-tabs [data-code]").forEach((b) => { b.setAttribute("aria-pressed", b.dataset.code === now.code); b.hidden = !p[b.dataset.code]; });
  at("code").hidden = !p[now.code];
  at("code").querySelector("pre").textContent = p[now.code];
}
at("tabs").addEventListener("click", async (e) => {
  const button = e.target.closest("button"), p = byId(now.picked);
  if (!button || !p) return;
  if (button.dataset.code) { now.code = button.dataset.code; return code(p); }
  const pre = at("code").querySelector("pre");
  try { await navigator.clipboard.writeText(pre.textContent); } catch (error) {      // no permission, or an old browser
    const chosen = document.createRange(); chosen.selectNodeContents(pre);
    getSelection().removeAllRanges(); getSelection().addRange(chosen); document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

// -- the table, and everything together ---------------------------------------------------------------------------
function table() {
  const head = ["setting", "kind", "seconds", "speed-up", ...data.metrics.flatMap((m) => [m.label + " mean", "worst"]), "calls", "held", "pictures"];
  const rows = visible().map((p) => {
    const name = make("button", "", p.name), spread = p.speedup_range[0] !== null && p.speedup_range[1] > p.speedup_range[0] ? ` (${p.speedup_range[0].toFixed(2)} to ${p.speedup_range[1].toFixed(2)})` : "";
    name.type = "button"; name.dataset.id = p.id;
    const of = (m, by) => { const s = p.scores[m.name]; return s ? said(s[by] === null ? Infinity : s[by], m) : "-"; };
    const cells = [name, p.family, seconds(p.seconds), times(p.speedup) + spread, ...data.metrics.flatMap((m) => [of(m, "mean"), of(m, "worst")]),
      `${count(p.calls)} of ${count(p.asked)}`, bytes(p.cache), p.failed ? `${p.cells}, ${p.failed} failed` : String(p.cells)];
    return make("tr", p.id === now.picked ? "on" : "", ...cells.map((c) => make("td", "", c)));
  });
  fill(at("scroll"), make("table", "", make("thead", "", make("tr", "", ...head.map((h) => make("th", "", h)))), make("tbody", "", ...rows)),
    make("ul", "", ...data.notes.map((n) => make("li", "", n))));
}
at("scroll").addEventListener("click", (e) => { const b = e.target.closest("button"); if (b) { now.wish = null; pick(b.dataset.id, "table"); } });

function pick(id, from) {
  if (id !== now.picked) now.flipped = false;
  now.picked = id;
  keeping(render);
  if (from === "grid" || from === "table") at("picked").scrollIntoView({ block: "nearest" });
  if (from !== "chart") return;
  const node = at("plot").querySelector('.dx-point[aria-checked="true"]');
  if (node) { node.focus({ preventScroll: true }); hint(byId(id), node); }
}
function keeping(build) {                       // the button that had the focus has it again when all are made anew
  const on = element.getRootNode().activeElement, where = ["families", "grid", "scroll"].map(at).find((node) => node.contains(on));
  const name = (button) => button.dataset.id || button.dataset.family;
  const had = where && name(on);
  build();
  const again = where && [...where.querySelectorAll("button")].find((button) => name(button) === had);
  if (again) again.focus({ preventScroll: true });
}
function options(select, pairs, chosen) {
  fill(select, ...pairs.map(([v, text]) => { const o = make("option", "", text); o.value = v; return o; }));
  select.value = chosen;
}
function families() {
  const counts = {};
  for (const p of stepped()) counts[p.family] = (counts[p.family] || 0) + 1;
  const chips = data.families.filter((f) => f !== PLAIN && counts[f]).map((f) => {
    const chip = make("button", "dx-chip", icon(f), `${f} ${counts[f]}`);
    chip.type = "button"; chip.dataset.family = f; chip.setAttribute("aria-pressed", !now.off.has(f));
    return chip;
  });
  const only = make("button", "dx-chip dx-only", "only the frontier");
  only.type = "button"; only.setAttribute("aria-pressed", now.best);
  fill(at("families"), ...chips, only);
}
function render() {
  if (!data || !data.points.length) return;
  root.dataset.view = now.view;
  element.querySelectorAll(".dx-views button").forEach((b) => b.setAttribute("aria-pressed", b.dataset.view === now.view));
  if (now.view === "chart") { chart(); wishes(); } else grid();
  picked();
  table();
}
at("families").addEventListener("click", (e) => {
  const chip = e.target.closest(".dx-chip"), name = chip && chip.dataset.family;
  if (!chip) return;
  if (!name) now.best = !now.best;
  else if (!now.off.delete(name)) now.off.add(name);
  keeping(() => { families(); render(); });
});
at("views").addEventListener("click", (e) => { const b = e.target.closest("button"); if (b) { now.view = b.dataset.view; render(); } });
for (const name of ["metric", "by", "across"]) at(name).addEventListener("change", (e) => { now[name] = e.target.value; now.wish = null; render(); });
at("steps").addEventListener("change", (e) => { now.steps = Number(e.target.value); first(); families(); render(); });
at("prompt").addEventListener("change", (e) => { now.prompt = Number(e.target.value); now.flipped = false; render(); });

function first() {                             // what is picked before anybody has picked: fast, and still close
  const variants = stepped().filter((p) => p.role === "variant" && placed(p)), values = variants.map((p) => better(value(p))).filter(Number.isFinite).sort((a, b) => a - b);
  if (!values.length) { const any = stepped().filter(placed)[0] || stepped()[0]; now.picked = any ? any.id : null; return; }
  const middle = better(values[Math.floor(values.length / 2)]), floor = now.metric === "psnr" && values[values.length - 1] >= 30 ? 30 : middle;
  now.wish = null;
  const fits = variants.filter((p) => better(value(p)) >= better(floor)).sort((a, b) => cost(a) - cost(b));
  now.picked = (fits[0] || variants[0]).id;
}
function show(v) {
  const same = data && now.run !== undefined && now.run === v.run;
  data = v; now.run = v.run;
  const names = v.metrics.map((m) => m.name), steps = [...new Set(v.points.map((p) => p.steps))];
  if (!names.includes(now.metric)) now.metric = names[0] || "";
  if (!steps.includes(now.steps)) now.steps = steps.length ? steps[steps.length - 1] : null;
  now.prompt = Math.min(now.prompt, Math.max(0, v.prompts.length - 1));
  if (!same) { now.off.clear(); now.best = false; now.wish = null; now.across = v.unsteady ? "speedup" : "seconds"; }
  at("across").value = now.across;
  options(at("metric"), v.metrics.map((m) => [m.name, m.label]), now.metric);
  options(at("steps"), steps.map((n) => [n, String(n)]), now.steps);
  at("stepped").hidden = steps.length < 2;
  options(at("prompt"), v.prompts.map((p, i) => [i, `${p.prompt}, seed ${p.seed}`]), now.prompt);
  if (!same || !byId(now.picked)) first();
  root.dataset.mode = "result";
  keeping(() => { families(); render(); });
}
function head(v, badge) {
  at("badge").textContent = badge; at("badge").className = "dx-badge" + (v.progress ? " live" : "");
  at("about").textContent = v.about;
  news(v);
}
function news(v) {
  at("progress").hidden = !v.progress;
  if (v.progress) { at("said").textContent = v.progress.said; at("bar").firstElementChild.style.width = v.progress.part * 100 + "%"; }
}
function tell(...texts) { fill(at("messages"), ...texts.filter(Boolean).map((t) => make("div", "dx-message", t))); }
function update() {
  const v = props.value;
  if (!v || (over !== null && v.run === over)) return;
  if (v.kind === "stopped") {                    // what has been measured stays
    over = v.run === undefined ? over : v.run;
    if (data) { head({ ...data, progress: null }, now.run === v.run && v.badge ? v.badge : data.badge); root.dataset.mode = "result"; }
    else root.dataset.mode = "empty";
    return tell(now.run === v.run || !v.early ? v.said : v.early);
  }
  if (v.kind === "progress") return news(v);
  const lost = v.points.filter((p) => p.seconds === null);
  const without = lost.length === 1 ? `${lost[0].name} could not be measured` : `${lost.length} settings could not be measured`;
  tell(v.said, v.unsteady, lost.length && !v.progress ? `${without}: see the pictures or the numbers for why.` : "");
  if (v.progress && !v.points.length && window.innerWidth < 760) root.scrollIntoView({ behavior: "smooth" });
  if (v.points.length) show(v); else root.dataset.mode = data ? "waiting" : "empty";
  head(v, v.badge);
}
let wide = 0;
new ResizeObserver(() => { const w = at("plot").clientWidth; if (w && w !== wide) { wide = w; if (data && now.view === "chart") chart(); } }).observe(at("plot"));
watch("value", update);
update();
