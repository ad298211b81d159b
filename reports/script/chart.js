// One chart: its marks as objects once, its panels drawn anew whenever filters or widths change.
class Chart {
  // Marks of a chart that are still told apart, and quickly drawn.
  static most = 3000;
  // Names of a legend that needs no scrolling.
  static mostNames = 60;

  constructor(source, place, title) {
    Object.assign(this, { title, stale: true, visible: false });
    lazy(this, "spec", () => parse(source));
    lazy(this, "series", () => new Map(this.spec.series.map((one) => [one.name, one])));
    lazy(this, "marks", () => this.read());
    this.grid = make("div", { class: "panels" });
    this.legend = make("ul", { class: "legend" });
    this.rows = new Rows(this);
    this.word = make("p", { class: "caption", hidden: true });
    place.append(this.word, this.grid, this.legend, this.rows.node);
    new IntersectionObserver(([entry]) => { this.visible = entry.isIntersecting; this.draw(); }, { rootMargin: "400px" }).observe(place);
    new ResizeObserver(() => { if (this.width !== place.clientWidth) this.dirty(); }).observe(place);
    this.place = place;
  }

  read() {
    const read = Object.entries(readers(this.spec.marks));
    return Array.from({ length: this.spec.count }, (_, place) => {
      const mark = { place };
      for (const [name, value] of read) mark[name] = value(place);
      return mark;
    });
  }

  dirty() { this.stale = true; this.draw(); }

  draw() {
    if (!this.stale || !(this.visible || this.eager)) return;
    this.stale = false;
    this.width = this.place.clientWidth;
    const pass = passes[this.spec.table];
    this.shown = pass ? this.marks.filter((mark) => mark.rows.every((row) => pass[row])) : this.marks;
    const present = new Set(this.shown.map((mark) => mark.series));
    this.names = this.spec.series.map((one) => one.name).filter((name) => present.has(name));
    const panels = this.spec.panels.filter((panel) => this.shown.some((mark) => mark.panel === panel));
    const least = this.spec.ends ? 230 : 330;
    const across = Math.max(1, Math.min(panels.length, this.spec.ends ? 4 : 3, Math.floor((this.width + 16) / (least + 16))));
    this.grid.style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
    const width = Math.max(200, Math.floor((this.width - 16 * (across - 1)) / across));
    this.crowded = this.spec.joined && !this.spec.bare && this.shown.length > Chart.most;
    this.panels = panels.map((panel) => new Panel(this, panel, width));
    this.grid.replaceChildren(...this.panels.map((panel) => panel.svg));
    if (!panels.length) this.grid.append(make("p", { class: "empty-section" }, "The filters leave nothing of this chart."));
    const series = this.spec.y.scale === "series" || this.spec.ends ? [] : this.names;
    this.legend.replaceChildren(...series.map((name) => this.entry(this.series.get(name))));
    this.legend.hidden = !series.length;
    if (series.length > Chart.mostNames) this.legend.tabIndex = 0; else this.legend.removeAttribute("tabindex");
    this.word.hidden = !this.crowded;
    this.word.textContent = `${this.shown.length.toLocaleString("en-US")} values: lines alone are drawn. Up to ${Chart.most.toLocaleString("en-US")}, `
      + "which the filters may leave, each has its mark and interval. Hover and rows are of all.";
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
