// The JSON of the page: its tables, and what a filter looks at in a row.
// A column is {all: value}, {of: values, at: places} or a plain list (reports/charts/embed.py).
const page = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const tip = document.getElementById("tip");
const dims = [...form.querySelectorAll("[data-filter]")].map((group) => group.dataset.filter);

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
