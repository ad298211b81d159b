// The rows behind a chart: a table that fills when opened, and a CSV of all that the filters leave.
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

  get rows() {
    const places = new Set();
    for (const mark of this.chart.shown) for (const row of mark.rows) places.add(row);
    return [...places].sort((a, b) => a - b);
  }

  refresh() {
    const { rows } = this;
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
