// Draws the charts of the page from the JSON in it, filters them, and shows the rows behind each mark.
// Without this script the static figures stand in their places.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const tip = document.getElementById("tip");
  const dims = [...form.querySelectorAll("[data-filter]")].map((group) => group.dataset.filter);

  // ---- data: columns are {all: value}, {of: values, at: places} or a plain list (reports/charts/embed.py)
  const reader = (column) =>
    Array.isArray(column) ? (i) => column[i] : "at" in column ? (i) => column.of[column.at[i]] : () => column.all;
  const readers = (columns) => Object.fromEntries(Object.entries(columns).map(([name, c]) => [name, reader(c)]));
  const tables = Object.fromEntries(
    Object.entries(page.tables).map(([name, t]) => [name, { count: t.count, read: readers(t.columns) }]));
  const budget = (read, i) => (read.budget_value(i) === null ? null : `${read.budget_name(i)} ${read.budget_value(i)}`);
  // What a filter looks at in a row; null where it does not apply.
  const facets = {
    method: (read, i) => read.method(i),
    mode: (read, i, table) => (table === "efficiency" ? read.mode(i) : null),
    task: (read, i) => (["", "none"].includes(read.task(i)) ? null : read.task(i)),
    budget,
    hardware: (read, i) => read._hardware(i),
  };

  // ---- words and numbers, written as in the tables (reports/text.py)
  const number = (v) => {
    if (v === null || !Number.isFinite(v)) return "–";
    if (v === 0) return "0";
    const size = Math.abs(v);
    if (size >= 99.95) return Math.round(v).toLocaleString("en-US");
    return size < 0.001 ? v.toExponential(1) : v.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size))));
  };
  const length = (v) => (v >= 1024 && v % 1024 === 0 ? `${v / 1024}K` : v.toLocaleString("en-US"));
  const short = (v) => (v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(0)
    : v.toLocaleString("en-US", { maximumSignificantDigits: 3, notation: Math.abs(v) >= 1e4 ? "compact" : "standard" }));
  const write = {
    length, number, exact: (v) => exact(v), percent: (v) => (v === null ? "–" : `${(100 * v).toFixed(1)} %`),
  };
  const exact = (v) => v.toLocaleString("en-US", { maximumSignificantDigits: 6 });
  const tickText = { length, number: short, exact, percent: (v) => `${Number((100 * v).toFixed(1))}%` };

  // ---- small helpers for elements
  const make = (tag, attrs = {}, ...children) => {
    const svg = ["svg", "g", "path", "line", "text", "circle", "rect"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attrs)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  };
  const colours = (look) => `--light:${look.colour};--dark:${look.dark}`;
  const DASHES = { "-": "none", "--": "6 3", "-.": "7 2.5 1.5 2.5", ":": "1.5 2.5" };

  // ---- filters: boxes of the form, kept in the address after "?", so that a view can be cited
  const boxes = (dim) => [...form.querySelectorAll(`[data-filter="${dim}"] input`)];
  const [from, to] = [form.elements.from, form.elements.to];
  let passes = {};

  function applyFilters() {
    const chosen = dims.map((dim) => [dim, boxes(dim)])
      .filter(([, inputs]) => inputs.some((box) => !box.checked))
      .map(([dim, inputs]) => [dim, new Set(inputs.filter((box) => box.checked).map((box) => box.value))]);
    const [low, high] = from ? [Number(from.value), Number(to.value)] : [0, Infinity];
    passes = Object.fromEntries(Object.entries(tables).map(([name, { count, read }]) => {
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
    say(chosen, low, high);
    for (const chart of charts) chart.dirty();
  }

  function say(chosen, low, high) {
    const named = new Map(chosen);
    for (const dim of dims) {
      const count = form.querySelector(`[data-filter="${dim}"] .count`);
      if (count) count.textContent = named.has(dim) ? `${named.get(dim).size} of ${boxes(dim).length}` : "all";
    }
    const query = chosen.map(([dim, set]) => `${dim}=${[...set].map(encodeURIComponent).join(",")}`);
    const whole = !from || (from.selectedIndex === 0 && to.selectedIndex === to.length - 1);
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

  // ---- scales and ticks
  function scale(axis, values, start, end, pad, wanted) {
    const log = axis.scale === "log" || axis.scale === "log2";
    let [low, high] = [Math.min(...range(values)), Math.max(...range(values))];
    if (!Number.isFinite(low)) [low, high] = [1, 10];
    const forward = log ? Math.log10 : (v) => v;
    let [a, b] = [forward(low), forward(high)];
    const span = Math.max(b - a, log ? 0.3 : axis.text === "percent" ? 0.05 : Math.abs(b) * 0.05 || 1e-9);
    a -= span * pad[0];
    b += span * pad[1];
    if (axis.text === "percent") [a, b] = [Math.max(a, -0.04), Math.min(b, 1.04)];
    const at = (v) => start + ((forward(v) - a) / (b - a)) * (end - start);
    const back = log ? (v) => 10 ** v : (v) => v;
    const ticks = axis.scale === "log2" ? thin([...new Set(values)].sort((p, q) => p - q), wanted)
      : log ? decades(back(a), back(b), wanted) : steps(a, b, wanted);
    return { at, ticks };
  }
  // Two values instead of a spread of thousands, which would overflow the stack.
  const range = (values) => values.reduce(([l, h], v) => [Math.min(l, v), Math.max(h, v)], [Infinity, -Infinity]);
  const thin = (values, wanted) => values.filter((_, i) => i % Math.ceil(values.length / wanted) === 0);
  function steps(low, high, wanted) {
    const raw = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push(Number((k * step).toPrecision(12)));
    return ticks;
  }
  function decades(low, high, wanted) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const every = Math.ceil((last - first) / wanted);
    const digits = last - first <= 2 ? [1, 2, 5] : last - first <= 4 ? [1, 3] : [1];
    const ticks = [];
    for (let d = first; d <= last; d += every) for (const m of digits) ticks.push(Number(`${m}e${d}`));
    return ticks.filter((v) => v >= low && v <= high);
  }

  // ---- one chart: its marks as objects once, its panels drawn anew whenever filters or widths change
  class Chart {
    constructor(spec, place, title) {
      Object.assign(this, { spec, title, stale: true, visible: false });
      const read = readers(spec.marks);
      const names = ["panel", "series", "x", "y", "x_low", "x_high", "y_low", "y_high", "size", "failure", "reason", "note", "hollow", "front", "line", "rows"];
      this.marks = Array.from({ length: spec.count }, (_, i) => ({ place: i, ...Object.fromEntries(names.map((name) => [name, read[name](i)])) }));
      this.series = new Map(spec.series.map((one) => [one.name, one]));
      this.grid = make("div", { class: "panels" });
      this.legend = make("ul", { class: "legend" });
      this.rows = new Rows(this);
      place.append(this.grid, this.legend, this.rows.node);
      new IntersectionObserver(([entry]) => { this.visible = entry.isIntersecting; this.draw(); }, { rootMargin: "400px" }).observe(place);
      new ResizeObserver(() => { if (this.width !== place.clientWidth) this.dirty(); }).observe(place);
      this.place = place;
    }

    dirty() { this.stale = true; this.draw(); }

    draw() {
      if (!this.stale || !(this.visible || this.eager)) return;
      this.stale = false;
      this.width = this.place.clientWidth;
      const pass = passes[this.spec.table];
      this.shown = this.marks.filter((mark) => mark.rows.every((row) => pass[row]));
      const present = new Set(this.shown.map((mark) => mark.series));
      this.names = this.spec.series.map((one) => one.name).filter((name) => present.has(name));
      const panels = this.spec.panels.filter((panel) => this.shown.some((mark) => mark.panel === panel));
      const least = this.spec.ends ? 230 : 330;
      const across = Math.max(1, Math.min(panels.length, this.spec.ends ? 4 : 3, Math.floor((this.width + 16) / (least + 16))));
      this.grid.style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
      const width = Math.max(200, Math.floor((this.width - 16 * (across - 1)) / across));
      this.panels = panels.map((panel) => new Panel(this, panel, width));
      this.grid.replaceChildren(...this.panels.map((panel) => panel.svg));
      if (!panels.length) this.grid.append(make("p", { class: "empty-section" }, "The filters leave nothing of this chart."));
      const series = this.spec.y.scale === "series" || this.spec.ends ? [] : this.names;
      this.legend.replaceChildren(...series.map((name) => this.entry(this.series.get(name))));
      this.legend.hidden = !series.length;
      this.rows.refresh();
    }

    entry(one) {
      const swatch = make("svg", { viewBox: "-14 -6 28 12", width: 28, height: 12, "aria-hidden": "true" },
        make("line", { x1: -14, x2: 14, "stroke-dasharray": DASHES[one.line], class: "stroke" }),
        make("path", { d: one.shape, transform: "scale(8)", class: "fill" }));
      if (!this.spec.joined) swatch.firstChild.remove();
      if (this.spec.bare) swatch.lastChild.remove();
      return make("li", { style: colours(one), class: "series", onmouseenter: () => this.emphasise(one.name), onmouseleave: () => this.emphasise(null) }, swatch, one.note ? `${one.name}: ${one.note}` : one.name);
    }

    emphasise(name) {
      for (const group of this.grid.querySelectorAll("g.series")) group.classList.toggle("faded", name !== null && group.dataset.series !== name);
    }

    words(mark) {
      const { x, y, value, table } = this.spec;
      const [main, low, high, axis] = value === "x" ? [mark.x, mark.x_low, mark.x_high, x] : [mark.y, mark.y_low, mark.y_high, y];
      const text = write[axis.text];
      const read = tables[table].read;
      const rounds = table === "efficiency" ? [...new Set(mark.rows.map((row) => read.rounds(row)))].filter((n) => n !== null) : [];
      const place = value === "x" ? "" : `${x.label}: ${write[x.text](mark.x)}`;
      const got = mark.failure ? `${mark.failure}: ${mark.reason || "no reason recorded"}`
        : `${axis.label}: ${text(main)}${low === null || high === null ? "" : ` [${text(low)}, ${text(high)}]`}`;
      const facts = [mark.note, rounds.length ? `${rounds.join(" and ")} rounds` : "", mark.failure ? "" : "status ok",
        mark.rows.length ? `${mark.rows.length > 1 ? `${mark.rows.length} rows, first ` : "row "}${read.cell_id(mark.rows[0])}` : ""];
      return [mark.series, [mark.panel, place].filter(Boolean).join(", "), got, facts.filter(Boolean).join("; ")];
    }
  }

  // ---- one panel of a chart
  class Panel {
    constructor(chart, name, width) {
      const { spec } = chart;
      this.chart = chart;
      this.marks = chart.shown.filter((mark) => mark.panel === name);
      const bySeries = spec.y.scale === "series";
      const names = chart.names;
      const height = bySeries ? 76 + 24 * names.length : spec.ends ? 230 : 320;
      const left = bySeries ? Math.min(width * 0.45, 24 + 6.2 * Math.max(...names.map((n) => n.length))) : 54;
      const ends = spec.ends ? [...chart.series.values()].map((one) => one.name.split(" · ").at(-1).length) : [];
      const [right, top, bottom] = [spec.ends ? 12 + 6 * Math.max(...ends) : 14, 30, height - 42];
      const good = this.marks.filter((mark) => !mark.failure && mark.y !== null && mark.x !== null);
      // Panels share the axis of values, so that they compare at a glance.
      const all = spec.size ? good : chart.shown.filter((mark) => !mark.failure && mark.x !== null && mark.y !== null);
      const lines = spec.references.filter(([panel]) => panel === "" || panel === name);
      const values = (axis, marks) => marks.flatMap((m) => [m[axis], m[`${axis}_low`], m[`${axis}_high`]]).filter((v) => v !== null && (spec[axis].scale !== "log" || v > 0));
      const extra = (axis) => (spec.value === axis ? lines.map(([, v]) => v) : []);
      const xMarks = spec.size || bySeries ? all : this.marks;
      const stack = new Map();
      const failed = this.marks.filter((mark) => mark.failure && !bySeries);
      for (const mark of failed) { mark.rank = stack.get(mark.x) || 0; stack.set(mark.x, mark.rank + 1); }
      const crowd = Math.min(0.5, stack.size ? 0.08 + 0.04 * Math.max(...stack.values()) : 0.06);
      this.x = scale(spec.x, [...values("x", xMarks), ...extra("x")], left, width - right, spec.size ? [0.15, 0.15] : [0.05, 0.05], Math.floor((width - left) / 56));
      this.y = bySeries ? { at: (v) => top + 14 + 24 * names.indexOf(spec.series[v].name), ticks: [] }
        : scale(spec.y, [...values("y", all), ...extra("y")], bottom, top, spec.size ? [0.2, 0.2] : [0.06, crowd / (1 - crowd)], 6);
      this.svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, role: "application", "aria-roledescription": "chart",
        "aria-label": `${chart.title}, ${name}: ${good.length} values, ${this.marks.filter((m) => m.failure).length} failures. Arrow keys go from mark to mark, Enter opens the rows.` });
      this.axes(name, { left, right: width - right, top, bottom, names, bySeries, width, height });
      for (const [, v, label] of lines) this.reference(v, label, { left, right: width - right, top, bottom });
      const largest = Math.max(1e-9, ...chart.shown.map((mark) => mark.size || 0));
      for (const one of spec.series) this.drawSeries(one, { top, left, largest, right: width - right });
      if (spec.size) this.front(good);
      this.focus = make("circle", { r: 9, class: "focus", visibility: "hidden" });
      this.svg.append(this.focus);
      this.listen();
    }

    axes(name, { left, right, top, bottom, names, bySeries, width, height }) {
      const { spec } = this.chart;
      this.svg.append(make("text", { x: bySeries ? 0 : left, y: 14, class: "title" }, name));
      for (const v of this.x.ticks) this.svg.append(
        make("line", { x1: this.x.at(v), x2: this.x.at(v), y1: top, y2: bottom, class: "grid" }),
        make("text", { x: this.x.at(v), y: bottom + 15, "text-anchor": "middle" }, tickText[spec.x.text](v)));
      for (const v of this.y.ticks) this.svg.append(
        make("line", { x1: left, x2: right, y1: this.y.at(v), y2: this.y.at(v), class: "grid" }),
        make("text", { x: left - 6, y: this.y.at(v) + 4, "text-anchor": "end" }, tickText[spec.y.text](v)));
      if (bySeries) for (const [i, text] of names.entries())
        this.svg.append(make("text", { x: left - 8, y: top + 18 + 24 * i, "text-anchor": "end" }, text.length * 6.2 > left ? `${text.slice(0, left / 6.2)}…` : text));
      this.svg.append(make("text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle", class: "label" }, spec.x.label));
      if (spec.y.label) this.svg.append(make("text", { x: 0, y: 0, "text-anchor": "middle", class: "label", transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)` }, spec.y.label));
    }

    reference(v, label, { left, right, top, bottom }) {
      const across = this.chart.spec.value === "y";
      const at = across ? this.y.at(v) : this.x.at(v);
      this.svg.append(make("line", across ? { x1: left, x2: right, y1: at, y2: at, class: "reference" } : { x1: at, x2: at, y1: top, y2: bottom, class: "reference" }));
      if (label) this.svg.append(make("text", { x: at + 3, y: top - 2, class: "label" }, label));
    }

    drawSeries(one, { top, left, largest, right }) {
      const { spec } = this.chart;
      const marks = this.marks.filter((mark) => mark.series === one.name).sort((a, b) => (spec.bare ? a.place - b.place : a.x - b.x));
      if (!marks.length) return;
      const group = make("g", { class: "series", style: colours(one), "data-series": one.name });
      if (spec.joined) group.append(make("path", { d: this.path(marks), class: "stroke", "stroke-dasharray": DASHES[one.line] }));
      for (const mark of marks) {
        mark.px = mark.x === null ? left + 10 : this.x.at(mark.x);
        mark.py = mark.failure && spec.y.scale !== "series" ? top + 8 + 11 * mark.rank : mark.y === null ? null : this.y.at(mark.y);
        if (mark.py === null || spec.bare) continue;
        for (const axis of ["x", "y"]) {
          if (mark[`${axis}_low`] === null || mark[`${axis}_high`] === null) continue;
          const [a, b] = [this[axis].at(mark[`${axis}_low`]), this[axis].at(mark[`${axis}_high`])];
          group.append(make("line", axis === "x" ? { x1: a, x2: b, y1: mark.py, y2: mark.py, class: "whisker" } : { x1: mark.px, x2: mark.px, y1: a, y2: b, class: "whisker" }));
        }
        if (spec.size && mark.size !== null) group.append(make("circle", { cx: mark.px, cy: mark.py, r: 22 * Math.sqrt(mark.size / largest), class: mark.front ? "bubble rim" : "bubble" }));
        group.append(make("path", {
          d: mark.failure ? "M-.5-.5L.5.5M-.5.5L.5-.5" : one.shape, transform: `translate(${mark.px.toFixed(2)} ${mark.py.toFixed(2)}) scale(8)`,
          class: `mark ${mark.failure ? "failed" : mark.hollow ? "hollow" : "fill"}`, "data-mark": mark.place,
        }));
        if (mark.failure && spec.y.scale === "series") group.append(make("text", { x: mark.px + 10, y: mark.py + 4 }, mark.failure));
      }
      const last = marks.filter((mark) => !mark.failure && mark.py !== null).at(-1);
      if (spec.ends && last) group.append(make("text", { x: right + 6, y: last.py + 4, class: "end" }, one.name.split(" · ").at(-1)));
      this.svg.append(group);
    }

    // Neighbours are joined; a failure, another cell of a bare chart, and a missing value break the line.
    path(marks) {
      let pen = "M", before = null, d = "";
      for (const mark of marks) {
        if (this.chart.spec.bare && before && before.line !== mark.line) pen = "M";
        if (mark.failure || mark.y === null) pen = "M";
        else { d += `${pen}${this.x.at(mark.x).toFixed(1)} ${this.y.at(mark.y).toFixed(1)}`; pen = "L"; }
        before = mark;
      }
      return d;
    }

    front(good) {
      const best = good.filter((mark) => mark.front).sort((a, b) => a.x - b.x);
      if (best.length > 1) this.svg.append(make("path", { class: "front", d: best.map((m, i) => `${i ? "L" : "M"}${this.x.at(m.x)} ${this.y.at(m.y)}`).join("") }));
    }

    listen() {
      this.order = this.marks.filter((mark) => mark.py !== null && mark.py !== undefined);
      this.svg.addEventListener("pointermove", (event) => {
        const box = this.svg.getBoundingClientRect();
        const [x, y] = [event.clientX - box.left, event.clientY - box.top];
        const near = this.order.reduce((best, m) => { const d = Math.hypot(m.px - x, m.py - y); return d < best[0] ? [d, m] : best; }, [28, null])[1];
        if (near) this.point(near); else { hideTip(); this.chart.emphasise(null); }
      });
      this.svg.addEventListener("pointerleave", () => { hideTip(); this.chart.emphasise(null); });
      this.svg.addEventListener("blur", () => { hideTip(); this.chart.emphasise(null); });
      this.svg.addEventListener("focus", () => { if (this.svg.matches(":focus-visible") && this.order.length) this.point(this.now || this.order[0]); });
      this.svg.addEventListener("click", () => { if (!tip.hidden) this.chart.rows.open(this.now); });
      this.svg.addEventListener("keydown", (event) => this.key(event));
    }

    key(event) {
      const place = this.order.indexOf(this.now);
      const other = (step) => { // the nearest mark of the next series
        const names = [...new Set(this.order.map((m) => m.series))];
        const name = names[(names.indexOf(this.now.series) + step + names.length) % names.length];
        return this.order.filter((m) => m.series === name).reduce((a, b) => (Math.abs(b.px - this.now.px) < Math.abs(a.px - this.now.px) ? b : a));
      };
      const next = { ArrowRight: () => this.order[place + 1], ArrowLeft: () => this.order[place - 1], Home: () => this.order[0], End: () => this.order.at(-1),
        ArrowDown: () => other(1), ArrowUp: () => other(-1) }[event.key];
      if (event.key === "Enter") this.chart.rows.open(this.now);
      else if (next && place >= 0) { const mark = next(); if (mark) this.point(mark); } else return;
      event.preventDefault();
    }

    point(mark) {
      this.now = mark;
      this.chart.emphasise(mark.series);
      this.focus.setAttribute("cx", mark.px);
      this.focus.setAttribute("cy", mark.py);
      this.focus.setAttribute("visibility", "visible");
      showTip(this.chart.words(mark), this.svg, mark);
    }
  }

  function showTip(words, svg, mark) {
    const [name, ...lines] = words.filter(Boolean);
    tip.replaceChildren(make("strong", {}, name), ...lines.map((line) => make("span", {}, line)));
    tip.hidden = false;
    const box = svg.getBoundingClientRect();
    const x = Math.min(box.left + mark.px + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = box.top + mark.py + 16;
    const y = below + tip.offsetHeight > innerHeight ? box.top + mark.py - tip.offsetHeight - 14 : below;
    tip.style.transform = `translate(${Math.max(8, x)}px, ${y}px)`;
  }
  function hideTip() {
    tip.hidden = true;
    for (const ring of document.querySelectorAll("circle.focus")) ring.setAttribute("visibility", "hidden");
  }

  // ---- the rows behind a chart: a table that fills when opened, and a CSV of all that the filters leave
  class Rows {
    static shown = ["cell_id", "env_id", "method", "budget_name", "budget_value", "task", "mode", "seq_len", "seed", "status", "reason", "backend", "rounds"];
    static limit = 200;

    constructor(chart) {
      this.chart = chart;
      this.summary = make("summary");
      this.body = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Rows behind ${chart.title}` });
      const save = make("button", { type: "button", onclick: () => this.save() }, "Download these rows as CSV");
      this.node = make("details", { class: "rows", ontoggle: () => this.refresh() }, this.summary, make("p", { class: "caption" }, save), this.body);
    }

    get rows() { return [...new Set(this.chart.shown.flatMap((mark) => mark.rows))].sort((a, b) => a - b); }

    refresh() {
      const rows = this.rows;
      this.summary.textContent = `Rows behind this chart: ${rows.length.toLocaleString("en-US")} of ${this.chart.spec.table}.csv`;
      if (!this.node.open) return;
      const { read } = tables[this.chart.spec.table];
      const values = this.chart.spec.columns.flatMap((c) => [c, `${c}_low`, `${c}_high`]).filter((c) => c in read);
      const names = [...Rows.shown.slice(0, 9), ...values, ...Rows.shown.slice(9)].filter((name) => name in read);
      const first = this.marked ? rows.filter((row) => this.marked.includes(row)) : [];
      const listed = [...first, ...rows.filter((row) => !first.includes(row)).slice(0, Rows.limit - first.length)];
      const text = (v) => (v === null ? "" : typeof v === "number" && !Number.isInteger(v) ? Number(v.toPrecision(6)) : v);
      this.body.replaceChildren(make("table", {},
        make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))),
        make("tbody", {}, ...listed.map((row) => make("tr", { class: first.includes(row) ? "marked" : null, "data-cell": read.cell_id(row) },
          ...names.map((name) => make("td", {}, String(text(read[name](row))))))))));
      if (rows.length > listed.length) this.body.append(make("p", { class: "caption" }, `The first ${listed.length}; the CSV has all.`));
    }

    open(mark) {
      this.marked = mark.rows;
      this.node.open = true;
      this.refresh();
      this.node.scrollIntoView({ block: "nearest" });
    }

    save() {
      const { read } = tables[this.chart.spec.table];
      const names = Object.keys(read).filter((name) => !name.startsWith("_"));
      const field = (v) => (v === null ? "" : typeof v === "boolean" ? String(v) : /[",\n\r]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v);
      const lines = [names, ...this.rows.map((row) => names.map((name) => read[name](row)))].map((line) => line.map(field).join(","));
      const link = make("a", { href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })), download: `${this.chart.spec.table}-${this.chart.place.closest("figure").id}.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }
  }

  // ---- the question at the top: a cell of the table below it, picked by mode, length and memory
  function finder(table) {
    const rows = [...table.tBodies[0].rows];
    const texts = (cells) => [...new Set([...cells].map((cell) => cell.textContent.trim()))];
    const pick = (label, values, start) => {
      const select = make("select", { onchange: answer }, ...values.map((value, i) => make("option", { selected: i === start }, value)));
      return [select, make("label", {}, `${label} `, select)];
    };
    const answer = () => {
      const row = rows.find((r) => r.cells[0].textContent.trim() === mode.value && r.cells[1].textContent.trim() === memory.value);
      out.replaceChildren(...row.cells[2 + length.selectedIndex].cloneNode(true).childNodes);
    };
    const lengths = texts(table.tHead.rows[0].cells).slice(2);
    const limits = texts(rows.map((row) => row.cells[1]));
    const [mode, modeLabel] = pick("I want to run", texts(rows.map((row) => row.cells[0])), 0);
    const [length, lengthLabel] = pick("at a length of", lengths, lengths.length - 1);
    const [memory, memoryLabel] = pick("within", limits, limits.length - 1);
    const out = make("output", { "aria-live": "polite" });
    const form = make("form", { class: "finder", "aria-label": "Find the method to use" }, modeLabel, lengthLabel, memoryLabel, out);
    const part = table.closest(".part");
    (part.querySelector(".sentences") || part.querySelector("details")).before(form);
    answer();
  }
  document.querySelectorAll('table[id^="table-within"]').forEach(finder);

  // ---- start: unhide what needs a script, then draw what is in sight
  document.documentElement.classList.add("scripted");
  form.hidden = false;
  const charts = [...document.querySelectorAll("figure[data-chart]")].flatMap((figure) => {
    const place = figure.querySelector(".interactive");
    return page.charts[figure.dataset.chart].map((spec) => {
      const own = make("div", { class: "chart" });
      place.append(own);
      return new Chart(spec, own, figure.querySelector("h4").textContent);
    });
  });
  new ResizeObserver(() => document.documentElement.style.setProperty("--bar", `${form.offsetHeight}px`)).observe(form);
  // A few charts are drawn at once, so that nothing moves when scrolled to; thousands of marks wait until in sight.
  if (charts.reduce((sum, chart) => sum + chart.marks.length, 0) < 20000) for (const chart of charts) chart.eager = true;
  readAddress();
  document.getElementById(anchor())?.scrollIntoView();
  // Paper cannot unfold: open every table of the report before printing.
  addEventListener("beforeprint", () => document.querySelectorAll("details.table").forEach((d) => { d.open = true; }));
})();
