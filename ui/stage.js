// Draws what the server sends. Every text goes through textContent: nothing from a prompt is ever read as HTML.
const at = (name) => element.querySelector(".dh-" + name);
const root = element.querySelector(".dh");
let result = null;      // the finished run on show
let chosen = 0;         // the step on show
let flipped = null;     // null: divider; else which picture fills the frame
let current = null;     // the settings on the left, as they are now
let over = null;        // the run that was stopped last: news of it may still be under way

function make(tag, cls, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}
function picture(src, alt) {
  const node = make("img");
  node.src = src; node.alt = alt; node.draggable = false;
  return node;
}
function fill(node, ...children) { node.replaceChildren(...children.filter(Boolean)); }

// -- the divider, and flipping -----------------------------------------------------------------------------------
function place(percent) {
  at("frame").style.setProperty("--at", percent + "%");
  at("line").style.display = flipped === null ? "" : "none";
  at("left").style.visibility = percent < 12 ? "hidden" : "";
  at("right").style.visibility = percent > 88 ? "hidden" : "";
  at("showing").textContent = flipped === null ? "drag, or use the arrow keys" : "showing: " + flipped;
}
function flip() {
  if (!result || root.dataset.mode !== "result") return;
  flipped = flipped === "baseline" ? "accelerated" : "baseline";
  place(flipped === "baseline" ? 100 : 0);
}
at("range").value = 50;
at("range").addEventListener("input", (e) => { flipped = null; place(Number(e.target.value)); });
at("flip").addEventListener("click", flip);
document.addEventListener("keydown", (e) => {
  if (!element.isConnected || !element.offsetParent || e.key.toLowerCase() !== "f" || e.ctrlKey || e.metaKey || e.altKey) return;
  const into = e.target;
  if (into.isContentEditable || into.tagName === "TEXTAREA" || into.tagName === "SELECT") return;
  if (into.tagName === "INPUT" && into.type !== "range") return;
  e.preventDefault(); flip();
});

// -- the strip of steps ------------------------------------------------------------------------------------------
const MEANS = { computed: "whole network ran", partial: "part of it ran", reused: "an old value", extrapolated: "a predicted value" };
function key(action, count) {
  return make("span", "dh-key", make("i", action), `${action} ${count}`);
}
function cells(steps, total) {
  const made = steps.map((step, i) => {
    const cell = make("button", "dh-cell " + step.action);
    cell.type = "button"; cell.dataset.i = i;
    cell.title = `step ${i + 1}: ${step.action}, ${MEANS[step.action] || ""}${step.reason ? " (" + step.reason + ")" : ""}`;
    cell.setAttribute("aria-label", cell.title);
    cell.tabIndex = -1;
    return cell;
  });
  for (let i = steps.length; i < total; i++) made.push(make("div", "dh-cell todo"));
  return made;
}
function legend(steps, sum) {
  const counts = {};
  for (const step of steps) counts[step.action] = (counts[step.action] || 0) + 1;
  fill(at("legend"), make("b", "", "What each step did"), ...Object.keys(counts).map((a) => key(a, counts[a])), make("span", "sum", sum));
}
function choose(i) {
  if (!result || !result.steps.length) return;
  chosen = Math.max(0, Math.min(result.steps.length - 1, i));
  const step = result.steps[chosen];
  element.querySelectorAll(".dh-cell").forEach((cell, n) => {
    cell.setAttribute("aria-pressed", n === chosen);
    cell.tabIndex = n === chosen ? 0 : -1;
  });
  fill(at("stepsaid"), make("b", "", `Step ${chosen + 1} of ${result.steps.length}: ${step.action}`),
    make("span", "", [MEANS[step.action], step.reason, step.calls, step.sigma].filter(Boolean).join(" · ")));
  const pics = [["baseline", step.base], ["accelerated", step.fast]].filter((p) => p[1]);
  fill(at("steppics"), ...pics.map(([name, src]) => make("figure", "", picture(src, name + " after this step"), name)));
}
const cellOf = (e) => e.target.closest("button.dh-cell");
at("strip").addEventListener("mouseover", (e) => { const c = cellOf(e); if (c) choose(Number(c.dataset.i)); });
at("strip").addEventListener("click", (e) => { const c = cellOf(e); if (c) choose(Number(c.dataset.i)); });
at("strip").addEventListener("keydown", (e) => {
  const all = [...element.querySelectorAll("button.dh-cell")], row = all.filter((c) => c.offsetTop === all[0].offsetTop).length;
  const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row, Home: -1000, End: 1000 }[e.key];
  if (!move) return;
  e.preventDefault(); choose(chosen + move);
  const cell = all[chosen];
  if (cell) cell.focus();
});

// -- a finished run ----------------------------------------------------------------------------------------------
function card(c) {
  const node = make("div", "dh-card " + (c.tone || ""), make("div", "l", c.label), make("div", "v", c.value), ...c.said.map((s) => make("div", "s", s)));
  if (c.help) node.title = c.help;
  return node;
}
function small(s) {
  const pic = picture(s.picture, s.title);
  pic.className = s.look || "";
  return make("figure", "", pic, make("figcaption", "", make("b", "", s.title), s.said));
}
function table(t) {
  const row = (tag, values) => make("tr", "", ...values.map((v) => make(tag, "", v)));
  return make("table", "", make("thead", "", row("th", t.head)), make("tbody", "", ...t.rows.map((r) => row("td", r))));
}
function save(name, src) {
  const link = make("a", "", name);
  link.href = src; link.download = name.replace(/\W+/g, "-") + ".png";
  return link;
}
function warn(w) { return make("div", "dh-warning" + (w.loud ? " loud" : ""), make("b", "", w.loud ? "Warning: " : "Note: "), w.text); }
function draw(r) {
  result = r; flipped = null; root.dataset.mode = "result";
  fill(at("warnings"), ...r.warnings.map(warn));
  fill(at("cards"), ...r.cards.map(card));
  at("base").src = r.base; at("fast").src = r.fast;
  at("frame").style.aspectRatio = r.aspect;
  fill(at("save"), "Save: ", save("baseline", r.base), " · ", save("accelerated", r.fast));
  fill(at("small"), ...r.small.map(small));
  fill(at("strip"), ...cells(r.steps, 0));
  legend(r.steps, r.calls);
  fill(at("all").querySelector(".dh-scroll"), table(r.table), make("ul", "", ...r.notes.map((n) => make("li", "", n))));
  at("range").value = 50; place(50);
  const skipped = r.steps.findIndex((s) => s.action !== "computed");
  choose(skipped < 0 ? 0 : skipped);
  badge();
}
function badge(said) {
  const same = (a, b) => String(a ?? "") === String(b ?? "");
  const stale = result && result.key && current && result.key.some((value, i) => !same(value, current[i]));
  root.dataset.stale = Boolean(stale);
  at("badge").className = "dh-badge" + (stale ? " stale" : "");
  at("badge").textContent = said || (!result ? "" : stale ? "other settings" : result.badge);
  root.dataset.about = result ? result.about : "";
  if (result) at("about").textContent = (stale ? "These numbers belong to: " : "") + result.about;
}

// -- a run under way ---------------------------------------------------------------------------------------------
const lanes = {};
function lane(name) {
  if (!lanes[name]) {
    const before = result && { baseline: result.base, accelerated: result.fast }[name];
    const img = picture(before || "", name + ", as it is now");
    img.className = before ? "dh-old" : "dh-none";
    const parts = { img, said: make("span"), bar: make("i") };
    parts.node = make("div", "dh-lane", make("div", "f", img), make("div", "n", make("b", "", name), parts.said), make("div", "dh-bar", parts.bar));
    lanes[name] = parts;
    at("race").append(parts.node);
  }
  return lanes[name];
}
function running(p) {
  if (root.dataset.mode !== "running") {
    for (const name of Object.keys(lanes)) { lanes[name].node.remove(); delete lanes[name]; }
    fill(at("warnings"));
    root.dataset.mode = "running";
    if (window.innerWidth < 760) root.scrollIntoView({ behavior: "smooth" });
  }
  at("badge").className = "dh-badge live"; at("badge").textContent = "running";
  at("about").textContent = p.said;
  for (const l of p.lanes) {
    const parts = lane(l.name);
    if (l.picture) { parts.img.src = l.picture; parts.img.className = ""; }
    parts.said.textContent = l.said;
    parts.bar.style.width = (l.part * 100) + "%";
  }
  fill(at("strip"), ...cells(p.actions, p.total));
  legend(p.actions, "");
}
function update() {
  const v = props.value;
  if (!v || (over !== null && v.run === over)) return;
  if (v.kind === "running") return running(v);
  if (v.kind === "result") return draw(v);
  if (v.kind === "stopped") {           // what stood here before stands again
    over = v.run ?? over;
    if (result) draw(result); else root.dataset.mode = "empty";
    fill(at("warnings"), warn({ text: v.said }));
  }
}
window.addEventListener("deadheat-settings", (e) => {
  current = e.detail;
  if (root.dataset.mode === "result") badge();
});
document.addEventListener("input", (e) => {
  if (element.isConnected && e.target.closest("#recipe")) window.deadheatTyped = e.target.value;
});
watch("value", update);
update();
