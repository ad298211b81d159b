// One panel of a chart.

// Pixels from one name at the end of a line to the next.
const END_GAP = 11.5;

class Panel {
  constructor(chart, name, width) {
    const { spec } = chart;
    this.chart = chart;
    this.marks = chart.shown.filter((mark) => mark.panel === name);
    this.lines = grouped(this.marks, (mark) => mark.series);
    const bySeries = spec.y.scale === "series";
    const names = chart.names;
    const height = bySeries ? 76 + 24 * names.length : spec.ends ? Math.max(230, 84 + END_GAP * this.lines.size) : 320;
    const left = bySeries ? Math.min(width * 0.45, 24 + 6.2 * Math.max(...names.map((n) => n.length))) : 54;
    const ends = spec.ends ? [...chart.series.values()].map((one) => one.name.split(" · ").at(-1).length) : [];
    const [right, top, bottom] = [spec.ends ? 12 + 6 * Math.max(...ends) : 14, 30, height - 42];
    const good = this.marks.filter((mark) => !mark.failure && mark.y !== null && mark.x !== null);
    // Panels share the axis of values, so that they compare at a glance; tasks of a learning curve have their own.
    const all = spec.size || spec.bare ? good : chart.shown.filter((mark) => !mark.failure && mark.x !== null && mark.y !== null);
    const lines = spec.references.filter(([panel]) => panel === "" || panel === name);
    const values = (axis, marks) => {
      const found = [];
      for (const end of [axis, `${axis}_low`, `${axis}_high`]) for (const mark of marks) if (mark[end] !== null && (spec[axis].scale !== "log" || mark[end] > 0)) found.push(mark[end]);
      return found;
    };
    const extra = (axis) => (spec.value === axis ? lines.flatMap(([, low, high]) => [low, high]) : []);
    const xMarks = spec.size || bySeries ? all : this.marks;
    const stack = new Map();
    const failed = this.marks.filter((mark) => mark.failure && !bySeries);
    // Failures at one length stand on each other, but for a crowd of them, which would take half the panel.
    for (const mark of failed) { mark.rank = chart.crowded ? 0 : stack.get(mark.x) || 0; stack.set(mark.x, mark.rank + 1); }
    const crowd = Math.min(0.5, stack.size ? 0.08 + 0.04 * Math.max(...stack.values()) : 0.06);
    this.x = scale(spec.x, [...values("x", xMarks), ...extra("x")], left, width - right, spec.size ? [0.15, 0.15] : [0.05, 0.05], Math.floor((width - left) / 56));
    this.y = bySeries ? { at: (v) => top + 14 + 24 * names.indexOf(spec.series[v].name), ticks: [] }
      : scale(spec.y, [...values("y", all), ...extra("y")], bottom, top, spec.size ? [0.2, 0.2] : [0.06, crowd / (1 - crowd)], 6);
    this.svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, role: "application", "aria-roledescription": "chart",
      "aria-label": `${chart.title}, ${name}: ${good.length} values, ${this.marks.filter((m) => m.failure).length} failures. Arrow keys go from mark to mark, Enter opens the rows.` });
    this.axes(name, { left, right: width - right, top, bottom, names, bySeries, width, height });
    for (const [, low, high, label] of lines) this.reference(low, high, label, { left, right: width - right, top, bottom });
    const largest = Math.max(1e-9, ...chart.shown.map((mark) => mark.size || 0));
    this.ends = [];
    for (const one of spec.series) this.drawSeries(one, { top, left, largest });
    this.nameEnds(width - right, top, bottom);
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

  // A line, in the middle of a band where the value is known within one.
  reference(low, high, label, { left, right, top, bottom }) {
    const across = this.chart.spec.value === "y";
    const [a, b] = [low, high].map(across ? this.y.at : this.x.at).sort((p, q) => p - q);
    const at = (a + b) / 2;
    if (b > a) this.svg.append(make("rect", across ? { x: left, width: right - left, y: a, height: b - a, class: "band" } : { x: a, width: b - a, y: top, height: bottom - top, class: "band" }));
    this.svg.append(make("line", across ? { x1: left, x2: right, y1: at, y2: at, class: "reference" } : { x1: at, x2: at, y1: top, y2: bottom, class: "reference" }));
    if (label) this.svg.append(make("text", { x: at + 3, y: top - 2, class: "label" }, label));
  }

  drawSeries(one, { top, left, largest }) {
    const { spec } = this.chart;
    const marks = this.lines.get(one.name);
    if (!marks) return;
    marks.sort((a, b) => (spec.bare ? a.place - b.place : a.x - b.x));
    const group = make("g", { class: "series", style: colours(one), "data-series": one.name });
    if (spec.joined) group.append(make("path", { d: this.path(marks), class: "stroke", "stroke-dasharray": DASHES[one.line] }));
    for (const mark of marks) {
      mark.px = mark.x === null ? left + 10 : this.x.at(mark.x);
      mark.py = mark.failure && spec.y.scale !== "series" ? top + 8 + 11 * mark.rank : mark.y === null ? null : this.y.at(mark.y);
      if (mark.py === null || spec.bare || this.chart.crowded) continue;
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
    if (spec.ends && last) this.ends.push({ group, last, text: one.name.split(" · ").at(-1) });
    this.svg.append(group);
  }

  // Names right of the lines, spread where lines end close to each other; a leader goes to a name that had to move.
  nameEnds(right, top, bottom) {
    const ends = this.ends.sort((a, b) => a.last.py - b.last.py);
    const places = spread(ends.map((end) => end.last.py), END_GAP, top, bottom);
    for (const [i, { group, last, text }] of ends.entries()) {
      if (Math.abs(places[i] - last.py) > 2 || right - last.px > 30)
        group.append(make("path", { d: `M${(last.px + 5).toFixed(1)} ${last.py.toFixed(1)}L${right + 4} ${places[i].toFixed(1)}`, class: "leader" }));
      group.append(make("text", { x: right + 6, y: places[i] + 4, class: "end" }, text));
    }
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
