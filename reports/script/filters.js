// Filters: boxes of the form, kept in the address after "?", so that a view can be cited.
const boxes = (dim) => [...form.querySelectorAll(`[data-filter="${dim}"] input`)];
const [from, to] = [form.elements.from, form.elements.to];
// By table which rows are left; nothing where all are.
let passes = {};

function applyFilters() {
  const chosen = dims.map((dim) => [dim, boxes(dim)])
    .filter(([, inputs]) => inputs.some((box) => !box.checked))
    .map(([dim, inputs]) => [dim, new Set(inputs.filter((box) => box.checked).map((box) => box.value))]);
  const [low, high] = from ? [Number(from.value), Number(to.value)] : [0, Infinity];
  const whole = !from || (from.selectedIndex === 0 && to.selectedIndex === to.length - 1);
  passes = whole && !chosen.length ? {} : Object.fromEntries(Object.entries(tables).map(([name, { count, read }]) => {
    const pass = new Uint8Array(count);
    for (let i = 0; i < count; i++) {
      const length = name === "accuracy" ? null : read.seq_len(i);
      pass[i] = (length === null || (low <= length && length <= high)) && chosen.every(([dim, set]) => {
        const value = facets[dim](read, i, name);
        return value === null || set.has(value);
      });
    }
    return [name, pass];
  }));
  const hardware = chosen.find(([dim]) => dim === "hardware");
  for (const part of document.querySelectorAll("[data-hardware]"))
    part.hidden = Boolean(hardware) && !JSON.parse(part.dataset.hardware).some((label) => hardware[1].has(label));
  say(chosen, whole, low, high);
  for (const chart of charts) chart.dirty();
}

function say(chosen, whole, low, high) {
  const named = new Map(chosen);
  for (const dim of dims) {
    const count = form.querySelector(`[data-filter="${dim}"] .count`);
    if (count) count.textContent = named.has(dim) ? `${named.get(dim).size} of ${boxes(dim).length}` : "all";
  }
  const query = chosen.map(([dim, set]) => `${dim}=${[...set].map(encodeURIComponent).join(",")}`);
  if (!whole) query.push(`length=${low}-${high}`);
  form.elements.reset.disabled = !query.length;
  const text = `#${anchor()}${query.length ? "?" + query.join("&") : ""}`;
  if (text !== (location.hash || "#")) history.replaceState(null, "", text === "#" ? location.pathname : text);
}

const anchor = () => location.hash.slice(1).split("?")[0];

function readAddress() {
  const query = new Map((location.hash.split("?")[1] || "").split("&").filter(Boolean).map((part) => part.split("=")));
  for (const dim of dims) {
    const wanted = query.has(dim) ? query.get(dim).split(",").map(decodeURIComponent) : null;
    for (const box of boxes(dim)) box.checked = !wanted || wanted.includes(box.value);
  }
  if (from) {
    const [low, high] = (query.get("length") || "-").split("-");
    from.value = [...from].some((o) => o.value === low) ? low : from[0].value;
    to.value = [...to].some((o) => o.value === high) ? high : to[to.length - 1].value;
  }
  applyFilters();
}

form.addEventListener("input", (event) => {
  if (from && Number(from.value) > Number(to.value)) (event.target === from ? to : from).value = event.target.value;
  applyFilters();
});
form.addEventListener("click", (event) => {
  const all = event.target.dataset.all;
  if (event.target === form.elements.reset) history.replaceState(null, "", `#${anchor()}`), readAddress();
  else if (all !== undefined) {
    for (const box of event.target.closest("[data-filter]").querySelectorAll("input")) box.checked = all === "true";
    applyFilters();
  }
});
// One menu at a time; Escape and a click elsewhere close it.
const menus = [...form.querySelectorAll("details")];
for (const menu of menus)
  menu.addEventListener("toggle", () => menu.open && menus.forEach((m) => { m.open = m === menu; }));
addEventListener("click", (event) => menus.forEach((m) => { m.open = m.open && m.contains(event.target); }));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hideTip();
  for (const menu of menus.filter((m) => m.open)) menu.open = false, menu.querySelector("summary").focus();
});
// A link within the page keeps the filters; the browser does not find "#anchor?filters" by itself.
addEventListener("hashchange", (event) => {
  const before = event.oldURL.split("#")[1] || "";
  if (!location.hash.includes("?") && before.includes("?"))
    history.replaceState(null, "", `${location.hash}?${before.split("?")[1]}`);
  else readAddress();
  document.getElementById(anchor())?.scrollIntoView();
});
