// Draws what the server sends. Every text goes through textContent: nothing of a model is ever read as HTML.
const at = (name) => element.querySelector("." + name);

function make(tag, cls, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}
function card(c) {
  return make("div", "dh-card", make("div", "l", c.label), make("div", "v", c.value), ...c.said.map((s) => make("div", "s", s)));
}
function row(r) {
  const name = make("b", "", r.name, r.code ? make("code", "", r.code) : null);
  return make("div", "dm-row", name, make("div", "", make("p", "", r.about), ...r.notes.map((n) => make("p", "s", n))));
}
function part(name, head, rows) {
  at(`dm-${name}-head`).textContent = rows.length ? head : "";
  at("dm-" + name).replaceChildren(...rows.map(row));
}
let shown = null;   // the model on show: it stays until there is another one
function banner(said, about, live) {
  at("dh-badge").className = "dh-badge" + (live ? " live" : "");
  at("dh-badge").textContent = said;
  at("dh-about").textContent = about;
}
function update() {
  const v = props.value;
  if (!v) return;
  if (v.kind === "looking") return banner("loading", v.about, true);
  at("dh-warnings").replaceChildren(...(v.said ? [make("div", "dh-warning", make("b", "", "Note: "), v.said)] : []));
  if (v.kind === "sheet") shown = v;
  if (shown) banner("loaded here", shown.about, false);
  if (v.kind !== "sheet") return;
  at("dh-cards").replaceChildren(...v.cards.map(card));
  part("presets", "Presets", v.presets);
  part("fits", `Fits (${v.fits.length})`, v.fits);
  part("not", `Does not fit (${v.not.length})`, v.not);
  part("switches", "System switches on this machine", v.switches);
}
watch("value", update);
update();
