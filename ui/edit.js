// Draws what the server sends, and the canvas that people paint on. Every text goes through textContent: nothing from a
// prompt is ever read as HTML.
const one = (name) => element.querySelector(name);
const root = one(".de"), mask = one(".de-mask"), cells = one(".de-cells"), tip = one(".de-tip");
const ink = mask.getContext("2d", { willReadFrequently: true });
const COLOURS = ["#ff5a36", "#facc15", "#22c55e", "#3b82f6", "#a855f7", "#ffffff", "#0f172a"];
let CELL = 8;               // pixels of a cell, for the estimate while one paints; the server knows better
const GROW = 4;             // pixels by which a painting is grown
let shown = null;           // what the server sent last: a picture or a result
let tool = "brush", colour = COLOURS[0], down = null, strokes = [], current = null, over = null, before = false;
let asked = 0, wait = null; // the latest question about the cost, and the pause before it

function make(tag, cls, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}
function fill(node, ...children) { node.replaceChildren(...children.filter(Boolean)); }
function warn(text, loud) { return make("div", "dh-warning" + (loud ? " loud" : ""), make("b", "", "Note: "), text); }
const percent = (x) => (100 * x).toFixed(x < 0.1 ? 1 : 0) + " %";

// -- the canvas --------------------------------------------------------------------------------------------------
const radius = () => Math.max(1, (Number(one(".de-size").value) / 200) * Math.min(mask.width, mask.height));
function spot(e) {
  const box = mask.getBoundingClientRect();
  return [((e.clientX - box.left) / box.width) * mask.width, ((e.clientY - box.top) / box.height) * mask.height];
}
function draw(from, to) {
  ink.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
  ink.strokeStyle = ink.fillStyle = root.dataset.how === "stroke" ? colour : COLOURS[0];
  ink.lineWidth = 2 * radius(); ink.lineCap = ink.lineJoin = "round";
  ink.beginPath(); ink.moveTo(...from); ink.lineTo(to[0] + 0.01, to[1]); ink.stroke();
  requestAnimationFrame(estimate);
}
function remember() {
  strokes.push(ink.getImageData(0, 0, mask.width, mask.height));
  if (strokes.length > 12) strokes.shift();
}
function begin(at) { remember(); down = at; draw(at, at); }
function move(at) { if (down) { draw(down, at); down = at; } }
function end() { if (down) { down = null; estimate(); ask(); } }
function point(at) {
  const size = (200 * radius()) / mask.width;
  Object.assign(tip.style, { display: "block", left: (100 * at[0]) / mask.width + "%", top: (100 * at[1]) / mask.height + "%", width: size + "%", aspectRatio: "1" });
}
let finger = null;                // the one that paints: a second would draw bars between the two
mask.addEventListener("pointerdown", (e) => { if (e.button || down) return; finger = e.pointerId; mask.setPointerCapture(finger); begin(spot(e)); });
mask.addEventListener("pointermove", (e) => { if (finger !== null && e.pointerId !== finger) return; point(spot(e)); move(spot(e)); });
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) mask.addEventListener(name, (e) => { if (e.pointerId === finger) { finger = null; end(); } });
mask.addEventListener("pointerleave", () => { if (document.activeElement !== mask) tip.style.display = "none"; });

let cursor = null, pen = false;   // painting by keyboard
mask.addEventListener("keydown", (e) => {
  if (root.dataset.mode === "running") return;
  const far = e.shiftKey ? 1 : CELL / 2, at = cursor || [mask.width / 2, mask.height / 2];
  const [x, y] = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] }[e.key] || [0, 0];
  if (e.key === " ") { e.preventDefault(); pen = !pen; if (pen) begin(at); else end(); return; }
  if (!x && !y) return;
  e.preventDefault();
  cursor = [Math.max(0, Math.min(mask.width, at[0] + x)), Math.max(0, Math.min(mask.height, at[1] + y))];
  point(cursor);
  if (pen) move(cursor);
});
mask.addEventListener("focus", () => { if (mask.matches(":focus-visible")) point(cursor || [mask.width / 2, mask.height / 2]); });
mask.addEventListener("blur", () => { pen = false; end(); tip.style.display = "none"; });

function choose(name) {
  tool = name;
  for (const each of ["brush", "eraser"]) one(".de-" + each).setAttribute("aria-pressed", each === name);
}
one(".de-brush").addEventListener("click", () => choose("brush"));
one(".de-eraser").addEventListener("click", () => choose("eraser"));
one(".de-redo").addEventListener("click", () => { const last = strokes.pop(); if (last) { ink.putImageData(last, 0, 0); estimate(); ask(); } });
one(".de-clear").addEventListener("click", () => { remember(); ink.clearRect(0, 0, mask.width, mask.height); estimate(); ask(); });
fill(one(".de-colours"), ...COLOURS.map((c, n) => {
  const button = make("button", ""); button.type = "button";
  button.style.setProperty("--ink", c); button.setAttribute("aria-label", "colour " + c); button.setAttribute("aria-pressed", n === 0);
  button.addEventListener("click", () => { colour = c; choose("brush"); one(".de-colours").querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", b === button)); });
  return button;
}));
document.addEventListener("keydown", (e) => {
  if (!element.isConnected || !element.offsetParent || e.ctrlKey || e.metaKey || e.altKey) return;
  const into = e.target, typing = into.isContentEditable || into.tagName === "TEXTAREA" || into.tagName === "SELECT";
  if (typing || (into.tagName === "INPUT" && into.type !== "range")) return;
  const key = e.key.toLowerCase();   // Caps Lock may be on
  if (key === "b") choose("brush");
  if (key === "e") choose("eraser");
  if (key === "f") flip();
});

// -- what it would cost ------------------------------------------------------------------------------------------
function painted() {
  const { width, height } = mask, data = ink.getImageData(0, 0, width, height).data;
  const columns = Math.ceil(width / CELL), rows = Math.ceil(height / CELL), flags = new Uint8Array(rows * columns);
  let count = 0;
  for (let y = 0, i = 3; y < height; y++) for (let x = 0; x < width; x++, i += 4) {
    if (data[i] <= 127) continue;
    count++;
    const top = Math.max(0, ((y - GROW) / CELL) | 0), bottom = Math.min(rows - 1, ((y + GROW) / CELL) | 0);
    const left = Math.max(0, ((x - GROW) / CELL) | 0), right = Math.min(columns - 1, ((x + GROW) / CELL) | 0);
    for (let r = top; r <= bottom; r++) for (let c = left; c <= right; c++) flags[r * columns + c] = 1;
  }
  return { count, area: count / (width * height), flags, rows, columns };
}
function estimate() {
  const p = painted(), paper = cells.getContext("2d");
  cells.width = p.columns; cells.height = p.rows;
  paper.fillStyle = "rgba(129, 140, 248, .34)";
  let active = 0;
  p.flags.forEach((flag, i) => { if (flag) { active++; paper.fillRect(i % p.columns, (i / p.columns) | 0, 1, 1); } });
  one(".de-hint").style.display = p.count ? "none" : "";
  one(".de-redo").disabled = !strokes.length;
  root.dataset.painted = p.count;
  if (!p.count) return say("Nothing is painted yet.");
  say(make("b", "", percent(p.area)), " of the pixels painted, ", make("b", "", percent(active / p.flags.length)), " of the cells touched.");
}
function say(...parts) { fill(one(".de-share"), ...parts); }
function paper() {
  if (!Number(root.dataset.painted)) return "";
  const hard = document.createElement("canvas"); hard.width = mask.width; hard.height = mask.height;
  const to = hard.getContext("2d"), data = ink.getImageData(0, 0, mask.width, mask.height);
  for (let i = 3; i < data.data.length; i += 4) data.data[i] = data.data[i] > 127 ? 255 : 0;   // no soft edges
  to.putImageData(data, 0, 0);
  return hard.toDataURL("image/png");
}
const desk = () => (shown && shown.desk) || "";
window.deadheatPaper = () => JSON.stringify({ desk: desk(), painted: paper() });
function ask() {
  clearTimeout(wait);
  const mine = ++asked;
  if (!shown || !Number(root.dataset.painted)) return;
  const tell = async (tries) => {
    let told = {};
    try { told = await server.cover([{ desk: desk(), painted: paper() }, current]); } catch { return; }
    if (mine !== asked || !told) return;
    if (told.active === undefined) {   // somebody else has the model: ask again, not for ever
      if (tries) wait = setTimeout(tell, 1000, tries - 1);
      return;
    }
    if (told.cell && told.cell !== CELL) { CELL = told.cell; estimate(); }
    const last = one(".de-share"), text = last.textContent.split(" painted, ")[0];
    const expected = told.lane === "dense" ? "so much that the dense edit is faster, and will run" : `expected ${told.speedup.toFixed(1)}x as fast as dense`;
    say(make("b", "", text), " painted, ", make("b", "", percent(told.active)), " of the picture computed: ", make("b", "", expected), told.recorded || told.lane === "dense" ? "." : ". The first edit records the picture, once.");
  };
  wait = setTimeout(tell, 150, 20);
}

// -- the pictures ------------------------------------------------------------------------------------------------
function load(src, marks) {
  const [width, height] = shown.size;
  Object.assign(mask, { width, height });
  one(".de-frame").style.aspectRatio = `${width} / ${height}`;
  one(".de-pic").src = src;
  strokes = []; before = false; cursor = null;
  const mine = shown;
  if (marks) {
    const image = new Image();
    image.onload = () => { if (mine === shown) { ink.drawImage(image, 0, 0); estimate(); ask(); } };
    image.src = marks;
  }
  estimate(); ask();
}
function flip() {
  if (!shown || !shown.before) return;
  before = !before;
  one(".de-pic").src = one(".de-save").href = before ? shown.before : shown.picture;
  one(".de-before").setAttribute("aria-pressed", before);
}
one(".de-before").addEventListener("click", flip);
// what is painted now; right after an edit, what had been painted for it
one(".de-savepaint").addEventListener("click", (e) => {
  const href = paper() || (shown && shown.painting) || "";
  if (href) e.currentTarget.href = href; else { e.preventDefault(); fill(one(".dh-warnings"), warn("Nothing is painted yet.")); }
});
one(".de-go").addEventListener("click", () => { const go = document.querySelector("#edit-go"); if (go) go.click(); });
one(".de-undo").addEventListener("click", () => trigger("undo", {}));
const figures = {};
function lane(name, old) {
  const img = make("img"); img.alt = name + " edit"; img.draggable = false;
  const parts = { img, title: make("b", "", name), said: make("span"), bar: make("i") };
  parts.node = make("div", "dh-lane", make("div", "f", img), make("div", "n", parts.title, parts.said), make("div", "dh-bar", parts.bar));
  if (old) { img.src = old; img.className = "dh-old"; } else img.className = "dh-none";
  return parts;
}
function lanes(list) {
  fill(one(".de-lanes"), ...list.map((l) => {
    const parts = lane(l.name);
    parts.img.src = l.picture; parts.img.className = l.look || ""; parts.said.textContent = l.said;
    return parts.node;
  }));
}
function past(list) {
  fill(one(".de-strip"), ...list.map((p, i) => {
    const button = make("button", "de-step"), img = make("img");
    img.src = p.picture; img.alt = ""; img.draggable = false;
    button.type = "button"; button.title = i < list.length - 1 ? "Go back to this picture: " + p.said : p.said;
    button.setAttribute("aria-current", i === list.length - 1);
    button.append(img, make("span", "", p.said));
    if (i < list.length - 1) button.addEventListener("click", () => trigger("undo", { to: i }));
    return button;
  }));
  one(".de-strip").scrollLeft = 1e6;
  one(".de-undo").disabled = list.length < 2;
}
function card(c) {
  const node = make("div", "dh-card " + (c.tone || ""), make("div", "l", c.label), make("div", "v", c.value), ...c.said.map((s) => make("div", "s", s)));
  if (c.help) node.title = c.help;
  return node;
}
function picture(p) {
  shown = p; mode(p.kind);
  load(p.picture, p.painted);
  past(p.history);
  one(".de-save").href = p.picture;
  one(".de-before").disabled = !p.before;
  one(".de-before").setAttribute("aria-pressed", false);
  fill(one(".dh-warnings"), ...(p.warnings || []).map((w) => warn(w.text, w.loud)), p.note ? warn(p.note) : null);
}
function result(r) {
  picture(r);
  lanes(r.lanes);
  fill(one(".dh-cards"), ...r.cards.map(card));
  fill(one(".dh-scroll"), make("ul", "", ...r.notes.map((n) => make("li", "", n))));
  badge();
}
let numbers = null;   // the result that the numbers on show belong to
function badge() {
  const same = (a, b) => String(a ?? "") === String(b ?? "");
  const stale = numbers && (shown !== numbers || (numbers.key && current && numbers.key.some((value, i) => !same(value, current[i]))));
  root.dataset.stale = Boolean(stale);
  one(".dh-badge").className = "dh-badge" + (stale ? " stale" : "");
  one(".dh-badge").textContent = !numbers ? "" : stale ? "another edit" : numbers.badge;
  one(".dh-about").textContent = numbers ? (stale ? "These numbers belong to: " : "") + numbers.about : "";
}
function mode(name) { root.dataset.mode = name; one(".de-tools").inert = name === "running"; }
function running(p) {
  if (root.dataset.mode !== "running") {
    for (const name of Object.keys(figures)) delete figures[name];
    fill(one(".dh-warnings"));
    mode("running");
    for (const l of p.lanes) figures[l.name] = lane(l.name, shown && shown.picture);
    fill(one(".de-lanes"), ...Object.values(figures).map((f) => f.node));
  }
  one(".dh-badge").className = "dh-badge live"; one(".dh-badge").textContent = "running";
  one(".dh-about").textContent = p.said;
  for (const l of p.lanes) {
    const parts = figures[l.name];
    if (!parts) continue;
    if (l.picture) { parts.img.src = l.picture; parts.img.className = ""; }
    parts.said.textContent = l.said;
    parts.bar.style.width = l.part * 100 + "%";
  }
}
function update() {
  const v = props.value;
  if (!v || (over !== null && v.run === over)) return;
  if (v.kind === "running") return running(v);
  if (v.kind === "result") { numbers = v; return result(v); }
  if (v.kind === "picture") { picture(v); if (!numbers) mode("picture"); else lanesAgain(); return badge(); }
  if (v.kind === "stopped") {           // what stood here before stands again, the painting too
    over = v.run ?? over;
    if (root.dataset.mode === "running") { mode(shown ? shown.kind : "empty"); lanesAgain(); }
    badge();
    fill(one(".dh-warnings"), warn(v.said));
  }
}
function lanesAgain() { if (numbers) lanes(numbers.lanes); else fill(one(".de-lanes")); }

// -- a picture by drag and drop, or from the clipboard -------------------------------------------------------------
async function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) { fill(one(".dh-warnings"), warn("That is not a picture.")); return; }
  let source;
  try { source = await createImageBitmap(file); } catch { fill(one(".dh-warnings"), warn("This picture cannot be read.")); return; }
  const scale = Math.min(1, 2048 / Math.max(source.width, source.height)), sheet = document.createElement("canvas");
  sheet.width = Math.max(1, Math.round(source.width * scale)); sheet.height = Math.max(1, Math.round(source.height * scale));
  sheet.getContext("2d").drawImage(source, 0, 0, sheet.width, sheet.height);
  trigger("upload", { picture: sheet.toDataURL("image/png") });
}
const frame = one(".de-frame");
frame.addEventListener("dragover", (e) => { e.preventDefault(); frame.classList.add("drop"); });
frame.addEventListener("dragleave", () => frame.classList.remove("drop"));
frame.addEventListener("drop", (e) => { e.preventDefault(); frame.classList.remove("drop"); take(e.dataTransfer.files[0]); });
document.addEventListener("paste", (e) => {
  if (element.offsetParent && e.clipboardData.files.length) { e.preventDefault(); take(e.clipboardData.files[0]); }
});
window.addEventListener("deadheat-edit", (e) => {
  current = e.detail;                 // prompt, mode, strength, model, ...
  root.dataset.how = current[1];
  if (root.dataset.mode !== "running") badge();
});
watch("value", update);
update();
