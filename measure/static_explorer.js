const props = { value: { ...RUNS[0], run: 0 } };
let changed = () => {};
explorer(document.querySelector("#explorer"), props, (_, told) => { changed = told; });
if (RUNS.length > 1) {
  const choice = document.querySelector(".runs select");
  RUNS.forEach((run, i) => { const option = new Option(`${run.badge}: ${run.about}`, i); choice.append(option); });
  choice.addEventListener("change", () => { props.value = { ...RUNS[choice.value], run: choice.value }; changed(); });
  document.querySelector(".runs").hidden = false;
}
